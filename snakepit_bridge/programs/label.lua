-- needs: rollout_functions
-- Points a label at a version. A rollout of the label ends without a decision, unless the label stays where it is.
--
-- KEYS[1]  hash of the program
-- KEYS[2]  stream of the label's rollouts
-- ARGV     label, version, author, reason
--
-- Returns 1, or 0 if there is no such version; nothing is written then. Running it twice changes nothing the second time.
local LABEL, VERSION, AUTHOR, REASON = unpack(ARGV)
local entry = redis.call('HGET', PROGRAM, 'version:' .. VERSION)
if not entry then
  return 0
end
if redis.call('HGET', PROGRAM, 'label:' .. LABEL) == entry then
  return 1
end
local record = redis.call('HGET', PROGRAM, 'rollout:' .. LABEL)
redis.call('HSET', PROGRAM, 'label:' .. LABEL, entry)
redis.call('HDEL', PROGRAM, 'rollout:' .. LABEL, 'rollout_policy:' .. LABEL)
if is_open(record) then
  record_event('superseded', record, AUTHOR, REASON, '{}')
end
return 1
