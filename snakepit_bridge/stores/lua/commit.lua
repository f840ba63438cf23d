-- Committing changes: what publish and rollback share, down to their first arguments.

local REQUEST = KEYS[5]
local CHANNEL, PUBLISHER, AUTHOR, REASON = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local FENCE, EXPECTED_EPOCH, EXPECTED_REVISION = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local RETENTION, AGE_US = ARGV[8], tonumber(ARGV[9])

-- A client that lost a reply sends its script again; within this time it gets the first answer and changes nothing.
local REQUEST_SECONDS = 300

local function answered()
  local answer = redis.call('GET', REQUEST)
  return answer and {'done', answer}
end

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
    if revision ~= head.revision or standing(head, tonumber(EXPECTED_EPOCH), revision) ~= 'held' then
      return {'stale', published(head) and token(head) or '0.0'}
    end
  end
end

-- Data only grows more certain; a confirmation that lies in the future comes from a clock that was set back since.
local function confirm(head)
  local now = now_us()
  if now - AGE_US > head.confirmed_at or head.confirmed_at > now then
    head.confirmed_at = now - AGE_US
  end
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
  head.authority = PUBLISHER
  local moved = #changes > 0 or not published(head)
  if moved then
    head.revision = head.revision + 1
    redis.call('XADD', HISTORY, 'MAXLEN', RETENTION, text(head.revision) .. '-0', 'epoch', text(head.epoch),
      'at', text(now_us()), 'author', AUTHOR, 'reason', REASON, 'changes', cmsgpack.pack(changes))
  end
  save_head(head)
  local answer = token(head)
  redis.call('SET', REQUEST, answer, 'EX', REQUEST_SECONDS)
  if moved then
    redis.call('PUBLISH', CHANNEL, answer)
  end
  return {'done', answer}
end
