-- Committing changes: what publish, rollback and confirm share, down to their first arguments.

local CHANNEL, PUBLISHER, AUTHOR, REASON = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FENCE, EXPECTED_EPOCH, EXPECTED_REVISION = tonumber(ARGV[5]), ARGV[6], ARGV[7]
-- When the look began that the changes come from: by this server's clock, else by its age at the sender.
local USUAL, AGE_US, LOOKED_AT_US = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
-- What the head keeps as `heard`.
local HEARD = ARGV[11]
-- The set of checks that the sender held the changes to, and the token that it held them on top of ('' where that
-- doesn't matter); '1' if the session's name is in the index.
local CHECKED, BASE, INDEXED = ARGV[12], ARGV[13], ARGV[14]

-- The refusal to answer with, or nil for a publisher that may go on.
local function refusal(head)
  if head.authority ~= '' and head.authority ~= PUBLISHER then
    return {'owned', head.authority}
  end
  if FENCE ~= head.fence then
    return {'fenced', text(head.fence)}
  end
  if EXPECTED_EPOCH ~= '' then
    local revision = tonumber(EXPECTED_REVISION)
    -- 0.0 stands for a session that isn't there.
    if revision ~= head.revision or (published(head) and standing(head, tonumber(EXPECTED_EPOCH), revision) ~= 'held') then
      return {'stale', published(head) and token(head) or '0.0'}
    end
  end
end

-- What the sender has to do before it sends the same again, or nil.
local function unready(head)
  if head.checks ~= CHECKED or (BASE ~= '' and BASE ~= (published(head) and token(head) or '0.0')) then
    return {'unchecked'}
  end
  -- The index is another key of another slot. First the name, then the session: a name without a session is passed over,
  -- a session without a name would never be found.
  if not published(head) and INDEXED == '' then
    return {'unindexed'}
  end
end

-- Data only grows more certain; a confirmation that lies in the future comes from a clock that was set back since.
local function confirm(head)
  local now = now_us()
  local looked_at = math.min(now, LOOKED_AT_US or now - AGE_US)
  if looked_at > head.confirmed_at or head.confirmed_at > now then
    head.confirmed_at = looked_at
  end
  head.heard = HEARD
end

-- Applies one change and notes it, unless the variable is already so.
local function apply(changes, name, value)
  local before = redis.call('HGET', VARIABLES, name) or ''
  if before == value then
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

-- One call per variable, and the changes as one field of their entry: `unpack` fails at 8,000 items.
local function commit(head, updates, replace)
  if head.fresh then
    save_head(head)
  end
  local changes = {}
  if replace then
    for _, name in ipairs(redis.call('HKEYS', VARIABLES)) do
      apply(changes, name, updates[name] or '')
    end
  end
  for name, value in pairs(updates) do
    apply(changes, name, value)
  end
  confirm(head)
  head.authority, head.usual = PUBLISHER, USUAL
  local moved = #changes > 0 or not published(head)
  if moved then
    head.revision = head.revision + 1
    redis.call('XADD', HISTORY, text(head.revision) .. '-0', 'epoch', text(head.epoch),
      'at', text(now_us()), 'author', AUTHOR, 'reason', REASON, 'changes', cmsgpack.pack(changes))
  end
  save_head(head)
  trim(head)
  live(head)
  if moved then
    redis.call('PUBLISH', CHANNEL, token(head))
  end
  return done(token(head))
end
