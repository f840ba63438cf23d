-- needs: rollout_functions
-- Starts the rollout of a label.
--
-- KEYS[1]  hash of the program
-- KEYS[2]  stream of the label's rollouts
-- ARGV     label, the version that it is expected to point at ("<n> <digest>"), record, policy, author, reason;
--          then those of redis/audit
--
-- Returns {'started'}, {'moved', the label's version}, {'overlap', the record of the open rollout}, {'experiments',
-- those that run} or a refusal of redis/audit; nothing is written unless it is started. Running it twice starts it once.
local LABEL, EXPECTED, RECORD, POLICY, AUTHOR, REASON = unpack(ARGV)
local found = redis.call('HMGET', PROGRAM, 'label:' .. LABEL, 'rollout:' .. LABEL, 'experiments:' .. LABEL)
local entry, record, experiments = found[1], found[2], found[3]
if record == RECORD then
  return {'started'}
end
local refused = unapproved()
if refused then
  return refused
end
if entry ~= EXPECTED then
  return {'moved', entry or ''}
end
if is_open(record) then
  return {'overlap', record}
end
if experiments then
  return {'experiments', experiments}
end
refused = protected('label', version_of(entry), LABEL, TARGET_NAME)
if refused then
  return refused
end
redis.call('HSET', PROGRAM, 'rollout:' .. LABEL, RECORD, 'rollout_policy:' .. LABEL, POLICY)
record_event('started', RECORD, AUTHOR, REASON, '{}')
return {'started'}
