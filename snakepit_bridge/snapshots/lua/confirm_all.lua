-- Records for many sessions that a read of the authority found no change. Handles only the common case: a head of this
-- server's run, at the expected token, under the publisher's fence, without a TTL. Others are left to confirm.lua.
-- Idempotent.
-- KEYS: their heads. ARGV: the publisher, then for each head "fence epoch revision looked_at_us heard", where
-- heard is the value of the head's field, two numbers, or empty.
-- Returns 1 for each confirmed session, 0 for each that was left.
-- Like heads.lua it has keys of several hash tags, so it can't run on a cluster: confirming 2,000 sessions per second
-- costs a tenth of a script for each.

local info = redis.call('INFO', 'server', 'replication')
local run, replid = string.match(info, 'run_id:(%w+)'), string.match(info, 'master_replid:(%w+)')
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function endless(key, own, usual)
  local kept = own and own ~= '' and own or usual or ''
  return not string.match(kept, '^%d+ %d+ [1-9]') and redis.call('PTTL', key) == -1
end

local answer = {}
for i, key in ipairs(KEYS) do
  local fence, epoch, revision, looked_at, heard = string.match(ARGV[i + 1], '^(%d+) (%d+) (%d+) (%d+) ([%d ]*)$')
  local head = redis.call('HMGET', key, 'epoch', 'revision', 'run', 'authority', 'fence', 'confirmed_at', 'retention',
    'usual', 'replid')
  local plain = fence and head[1] == epoch and head[2] == revision and revision ~= '0' and head[3] == run and head[9] == replid
    and head[4] == ARGV[1] and head[5] == fence and endless(key, head[7], head[8])
  if plain then
    local confirmed_at, looked = tonumber(head[6]), math.min(now, tonumber(looked_at))
    if looked > confirmed_at or confirmed_at > now then
      confirmed_at = looked
    end
    redis.call('HSET', key, 'confirmed_at', string.format('%.0f', confirmed_at), 'heard', heard)
  end
  answer[i] = plain and 1 or 0
end
return answer
