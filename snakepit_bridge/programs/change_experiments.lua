-- needs: rollout_functions
-- Changes the experiments that run on a label, unless they aren't as expected. A decision moves the label as well.
--
-- KEYS[1]  hash of the program
-- KEYS[2]  stream of the label's rollouts
-- KEYS[3]  stream of the label's experiments
-- ARGV     label, the expected experiments, the new ones (texts, '' for none), the version that the label is moved to
--          ("<n> <digest>", '' for none), an id of this change; of the event: kind, experiment, author, reason,
--          name of the experiment; then those of redis/audit
--
-- Returns {'changed'}, {'moved'} or, if an experiment is to start, {'overlap', the record of the open rollout},
-- or a refusal of redis/audit; nothing is written unless it is changed. Running it twice changes nothing the second time.
local LABEL, EXPECTED, CHANGED, ENTRY, CHANGE, KIND, EXPERIMENT, AUTHOR, REASON, NAME = unpack(ARGV)
local EXPERIMENTS = KEYS[3]

for _, latest in ipairs(redis.call('XREVRANGE', EXPERIMENTS, '+', '-', 'COUNT', 1)) do
  if latest[2][2] == CHANGE then
    return {'changed'}
  end
end
local found = redis.call('HMGET', PROGRAM, 'experiments:' .. LABEL, 'rollout:' .. LABEL,
  'label:' .. LABEL)
local record = found[2]
local refused = unapproved()
if refused then
  return refused
end
if (found[1] or '') ~= EXPECTED then
  return {'moved'}
end
if KIND == 'started' and is_open(record) then
  return {'overlap', record}
end
refused = KIND ~= 'stopped' and protected('label', version_of(found[3]), LABEL, TARGET_NAME)
if refused then
  return refused
end
if CHANGED == '' then
  redis.call('HDEL', PROGRAM, 'experiments:' .. LABEL)
else
  redis.call('HSET', PROGRAM, 'experiments:' .. LABEL, CHANGED)
end
if ENTRY ~= '' then
  redis.call('HSET', PROGRAM, 'label:' .. LABEL, ENTRY)
  redis.call('HDEL', PROGRAM, 'rollout:' .. LABEL, 'rollout_policy:' .. LABEL)
end
redis.call('XADD', EXPERIMENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'change', CHANGE, 'kind', KIND,
  'experiment', EXPERIMENT, 'author', AUTHOR, 'reason', REASON, 'at', now_text())
record_change('experiment.' .. KIND, AUTHOR, REASON, version_of(found[3]), version_of(ENTRY), {NAME})
return {'changed'}
