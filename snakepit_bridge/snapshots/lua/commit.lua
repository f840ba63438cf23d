-- Library: the common part of publish, rollback and confirm, including their leading arguments.

local CHANNEL, PUBLISHER, AUTHOR, REASON = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FENCE, EXPECTED_EPOCH, EXPECTED_REVISION = tonumber(ARGV[5]), ARGV[6], ARGV[7]
-- Start of the read that the changes come from: by this server's clock, or else by its age at the sender.
local USUAL, AGE_US, LOOKED_AT_US = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
-- The value of the head's `heard`.
local HEARD = ARGV[11]
-- The version of the checks that the sender evaluated, and the token of the state that it evaluated them on ('' if it
-- doesn't matter); the indexes that the session's name was written to for this commit: 'sessions', 'staged'.
local CHECKED, BASE, INDEXED = ARGV[12], ARGV[13], ARGV[14]

-- Returns the refusal to reply with, or nil if the publisher may commit.
local function refusal(head)
  if head.authority ~= '' and head.authority ~= PUBLISHER then
    return {'owned', head.authority}
  end
  if FENCE ~= head.fence then
    return {'fenced', text(head.fence)}
  end
  if EXPECTED_EPOCH ~= '' then
    local revision = tonumber(EXPECTED_REVISION)
    -- 0.0 means that the session doesn't exist.
    if revision ~= head.revision or (published(head) and standing(head, tonumber(EXPECTED_EPOCH), revision) ~= 'held') then
      return {'stale', published(head) and token(head) or '0.0'}
    end
  end
end

-- Returns what the sender has to do before it retries, unless it has done so: an index is in another slot, so the client
-- writes it. The name first, then what it is for: a name without a session is ignored, but a session without a name would
-- never be found.
local function unindexed(index)
  return not string.find(INDEXED, index, 1, true) and {'unindexed', index} or nil
end

-- Returns what the sender has to do before it retries, or nil.
local function unready(head)
  if head.checks ~= CHECKED or (BASE ~= '' and BASE ~= (published(head) and token(head) or '0.0')) then
    return {'unchecked'}
  end
  return not published(head) and unindexed('sessions') or nil
end

-- Confirmations only advance; one in the future was made before the clock was set back.
local function confirm(head)
  local now = now_us()
  local looked_at = math.min(now, LOOKED_AT_US or now - AGE_US)
  if looked_at > head.confirmed_at or head.confirmed_at > now then
    head.confirmed_at = looked_at
  end
  head.heard = HEARD
end

-- Returns whether a variable has a value already. equals: by name, the other values that it may have, nil for none.
local function has(name, before, value, equals)
  return before == value or (equals and equals[name] and equals[name][before]) or false
end

-- Returns whether a commit would change anything.
local function alters(updates, replace, equals)
  for name, value in pairs(updates) do
    if not has(name, redis.call('HGET', VARIABLES, name) or '', value, equals) then
      return true
    end
  end
  for _, name in ipairs(replace and redis.call('HKEYS', VARIABLES) or {}) do
    if not updates[name] then
      return true
    end
  end
  return false
end

-- Returns the refusal to reply with if a rule protects the session from a commit that changes it, or nil. An Elixir
-- server's values are followed.
local function guard(head, updates, replace, equals)
  local found = published(head) and token(head)
  local refused = PUBLISHER == 'store' and protected('session', found or '0.0', TARGET_NAME)
  return refused and (not found or alters(updates, replace, equals)) and refused or nil
end

-- Applies and records one change, unless the variable has that value already.
local function apply(changes, name, value, equals)
  local before = redis.call('HGET', VARIABLES, name) or ''
  if has(name, before, value, equals) then
    return
  end
  if value == '' then
    redis.call('HDEL', VARIABLES, name)
  else
    redis.call('HSET', VARIABLES, name, value)
  end
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3] = name, before, value
end

-- Returns the names of changes, which are as in the history.
local function changed_names(changes)
  local names = {}
  for i = 1, #changes, 3 do
    names[#names + 1] = changes[i]
  end
  return names
end

-- One call per variable, and the changes as one field of the entry, since `unpack` fails at 8,000 items.
--
-- action: what the audit calls it. If `staged` is false, the new revision is everybody's at once. For `equals` see
-- `apply`.
local function commit(head, action, updates, replace, staged, equals)
  if head.fresh then
    save_head(head)
  end
  local changes = {}
  if replace then
    for _, name in ipairs(redis.call('HKEYS', VARIABLES)) do
      apply(changes, name, updates[name] or '', equals)
    end
  end
  for name, value in pairs(updates) do
    apply(changes, name, value, equals)
  end
  confirm(head)
  head.authority, head.usual = PUBLISHER, USUAL
  local moved, before = #changes > 0 or not published(head), published(head) and token(head)
  if moved then
    head.revision, head.published_at = head.revision + 1, now_us()
    redis.call('XADD', HISTORY, text(head.revision) .. '-0', 'epoch', text(head.epoch),
      'at', text(now_us()), 'author', AUTHOR, 'reason', REASON, 'changes', cmsgpack.pack(changes))
  end
  if moved or APPROVED ~= '' then
    record_change(action, AUTHOR, REASON, before or '', token(head), changed_names(changes))
  end
  if moved and before then
    stage(head, before, changes, staged, AUTHOR, REASON)
  end
  save_head(head)
  trim(head)
  live(head)
  if moved then
    redis.call('PUBLISH', CHANNEL, token(head))
  end
  return done(token(head))
end
