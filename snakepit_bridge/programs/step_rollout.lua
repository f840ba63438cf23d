-- needs: rollout_functions
-- Changes the record of a label's rollout, unless it isn't as expected. A promotion moves the label as well.
--
-- KEYS[1]  hash of the program
-- KEYS[2]  stream of the label's rollouts
-- ARGV     label, the expected record, the new one, the version that the label is moved to ("<n> <digest>", '' for none);
--          of the event: kind, author, reason, detail; then those of redis/audit
--
-- Returns {'stepped'}, or {'moved', the record that was found}; nothing is written then. Running it twice changes nothing
-- the second time.
local LABEL, EXPECTED, RECORD, ENTRY, KIND, AUTHOR, REASON, DETAIL = unpack(ARGV)
local record = redis.call('HGET', PROGRAM, 'rollout:' .. LABEL)
if record == RECORD then
  return {'stepped'}
end
if record ~= EXPECTED then
  return {'moved', record or ''}
end
redis.call('HSET', PROGRAM, 'rollout:' .. LABEL, RECORD)
if ENTRY ~= '' then
  redis.call('HSET', PROGRAM, 'label:' .. LABEL, ENTRY)
end
record_event(KIND, RECORD, AUTHOR, REASON, DETAIL)
return {'stepped'}
