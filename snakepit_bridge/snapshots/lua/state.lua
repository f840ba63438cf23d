-- Library: restoring a past state. Entries hold the values before and after, so changes to the current state are
-- undone; '' is a missing variable, since no encoded variable is empty.

-- Returns the oldest revision that can be restored: undoing the oldest entry gives the state before it.
local function oldest_revision(head)
  local entry = redis.call('XRANGE', HISTORY, '-', '+', 'COUNT', 1)[1]
  if not entry then
    return head.revision
  end
  return math.max(1, read_entry(entry) - 1)
end

-- Returns a state as a list of names and values.
local function flattened(state)
  local flat = {}
  for name, value in pairs(state) do
    flat[#flat + 1] = name
    flat[#flat + 1] = value
  end
  return flat
end

local function by_name(flat)
  local state = {}
  for i = 1, #flat, 2 do
    state[flat[i]] = flat[i + 1]
  end
  return state
end

-- Returns the fields of the head's rollout by name, or nil.
local function rollout_of(head)
  local id, sequence, state, baseline, candidate =
    string.match(head.rollout, '^(%S+) (%d+) (%S+) %d+ %d+ %d+ %d+ (%S+) (%S+)$')
  return id and {id = id, sequence = tonumber(sequence), state = state, baseline = baseline, candidate = candidate}
end

-- Returns the state at a revision by name, or nil and the refusal to reply with.
local function state_at(head, epoch, revision)
  local stands = standing(head, epoch, revision)
  if stands == 'ahead' then
    return nil, {'ahead', token(head)}
  end
  local labelled = redis.call('HGET', LABELLED, text(epoch) .. '.' .. text(revision))
  if labelled then
    return by_name(cmsgpack.unpack(labelled))
  end
  trim(head)
  local oldest = oldest_revision(head)
  if stands == 'lost' or revision < oldest then
    return nil, {'lost', token_of(head, oldest)}
  end
  local state = by_name(redis.call('HGETALL', VARIABLES))
  for _, entry in ipairs(redis.call('XREVRANGE', HISTORY, '+', text(revision + 1) .. '-0')) do
    local _, fields = read_entry(entry)
    local changes = cmsgpack.unpack(fields.changes)
    for i = 1, #changes, 3 do
      state[changes[i]] = changes[i + 1]
    end
  end
  for name, value in pairs(state) do
    if value == '' then
      state[name] = nil
    end
  end
  return state
end

-- Calls a function with each revision that is an arm of a running experiment.
local function each_arm(experiments, visit)
  for at in string.gmatch(experiments, '"revision":"(%d+%.%d+)"') do
    visit(at)
  end
end

-- Keeps the state of a token for as long as a rollout or an experiment needs it; returns whether it can be read.
local function keep_state(head, at)
  local epoch, revision = string.match(at, '(%d+)%.(%d+)')
  local state = state_at(head, tonumber(epoch), tonumber(revision))
  if state then
    redis.call('HSET', LABELLED, at, cmsgpack.pack(flattened(state)))
  end
  return state ~= nil
end

-- Deletes states that no label, rollout or experiment needs.
local function forget_unlabelled(head)
  local named, rollout = {}, rollout_of(head)
  if rollout and rollout.state ~= 'promoted' then
    named[rollout.baseline] = true
  end
  each_arm(head.experiments, function(at)
    named[at] = true
  end)
  for _, packed in ipairs(redis.call('HVALS', LABELS)) do
    named[cmsgpack.unpack(packed)[1]] = true
  end
  for _, at in ipairs(redis.call('HKEYS', LABELLED)) do
    if not named[at] then
      redis.call('HDEL', LABELLED, at)
    end
  end
end
