-- Library: what a new revision means for the session's rollout.

local POLICY, RESERVED = 'dspex.rollout_policy', 'dspex.'
local EVENTS_KEPT = 1000

-- Appends an event, and records it in the audit trail. `detail` is JSON text.
local function record_event(kind, record, author, reason, detail)
  redis.call('XADD', ROLLOUTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'record', record, 'author', author,
    'reason', reason, 'detail', detail, 'at', text(now_us()))
  local baseline, candidate = string.match(record, '(%S+) (%S+)$')
  record_change('rollout.' .. kind, author, reason, baseline, candidate)
end

-- Returns whether the changes are of the fleet's own variables alone, which are nothing to try.
local function are_reserved(changes)
  for i = 1, #changes, 3 do
    if string.sub(changes[i], 1, #RESERVED) ~= RESERVED then
      return false
    end
  end
  return true
end

local function record_text(id, sequence, state, rest, baseline, candidate)
  return table.concat({id, text(sequence), state, rest, baseline, candidate}, ' ')
end

-- Ends the rollout without a decision: the current revision is everybody's.
local function supersede(head, author, reason)
  record_event('superseded', head.rollout, author, reason, '{}')
  head.rollout = ''
  forget_unlabelled(head)
end

-- Returns a state without the fleet's own variables.
local function drop_reserved(state)
  for name in pairs(state) do
    if string.sub(name, 1, #RESERVED) == RESERVED then
      state[name] = nil
    end
  end
  return state
end

-- Returns whether the current state is that of a kept token, the fleet's own variables apart.
local function is_current(at)
  local packed = redis.call('HGET', LABELLED, at)
  if not packed then
    return false
  end
  local kept = drop_reserved(by_name(cmsgpack.unpack(packed)))
  local now = drop_reserved(by_name(redis.call('HGETALL', VARIABLES)))
  for name, value in pairs(now) do
    if kept[name] ~= value then
      return false
    end
    kept[name] = nil
  end
  return next(kept) == nil
end

-- Returns whether a publish may begin a rollout where there is none, so that the session has to be in the index of staged
-- ones before.
local function may_stage(head, updates, replace)
  local running = rollout_of(head)
  if not published(head) or (running and running.state ~= 'promoted') then
    return false
  end
  if replace or updates[POLICY] then
    return (updates[POLICY] or '') ~= ''
  end
  return redis.call('HGET', VARIABLES, POLICY) and true
end

-- Begins a rollout of the current revision, or drops the one that there is.
-- before: the token before it; changes: as in the history.
local function stage(head, before, changes, staged, author, reason)
  local running, now = rollout_of(head), token(head)
  if running and running.state == 'promoted' then
    head.rollout, running = '', nil
  end
  local has_policy = redis.call('HGET', VARIABLES, POLICY)
  if staged and are_reserved(changes) then
    if running then
      local kept = string.match(head.rollout, '^%S+ %d+ %S+ (%d+ %d+ %d+ %d+) ')
      head.rollout = record_text(running.id, running.sequence + 1, running.state, kept, running.baseline, now)
    end
  elseif running and not (staged and has_policy) then
    supersede(head, author, staged and 'the session has no rollout policy any more' or reason)
  elseif staged and has_policy then
    if running and is_current(running.baseline) then
      supersede(head, author, 'the session is back at the values of its baseline')
      return
    end
    local baseline = running and running.baseline or before
    if not running and not keep_state(head, before) then
      return
    end
    local id = string.sub(redis.sha1hex(table.concat({HEAD, head.run, now, text(now_us())}, ' ')), 1, 16)
    head.rollout = record_text(id, 1, 'new', '0 0 0 0', baseline, now)
    record_event('started', head.rollout, author, reason, '{}')
  end
end
