-- needs: rollout_functions
-- Points a label at a version. An open rollout of the label ends without a decision, also if the label stays where it is:
-- whoever labels a version wants everybody to get it.
--
-- KEYS[1]  hash of the program
-- KEYS[2]  stream of the label's rollouts
-- ARGV     label, version, author, reason, the version that the label has to be at ('' any, 'none' not set); then those of redis/audit
--
-- Returns {'labelled', the record of the rollout that it ended, '' for none}, {'unknown'} if there is no such version,
-- {'moved', the label's version} or a
-- refusal of redis/audit; nothing is written then. Running it twice changes nothing the second time.
local LABEL, VERSION, AUTHOR, REASON, EXPECTED = unpack(ARGV)
local entry = redis.call('HGET', PROGRAM, 'version:' .. VERSION)
if not entry then
  return {'unknown'}
end
local refused = unapproved()
if refused then
  return refused
end
local found = redis.call('HGET', PROGRAM, 'label:' .. LABEL)
local record = redis.call('HGET', PROGRAM, 'rollout:' .. LABEL)
local at = found and version_of(found) or 'none'
if EXPECTED ~= '' and EXPECTED ~= at then
  return {'moved', at}
end
if found == entry and not is_open(record) then
  return {'labelled', ''}
end
refused = protected('label', at, LABEL, TARGET_NAME)
if refused then
  return refused
end
redis.call('HSET', PROGRAM, 'label:' .. LABEL, entry)
record_change('label', AUTHOR, REASON, version_of(found), VERSION)
redis.call('HDEL', PROGRAM, 'rollout:' .. LABEL, 'rollout_policy:' .. LABEL)
if is_open(record) then
  record_event('superseded', record, AUTHOR, REASON, '{}')
  return {'labelled', record}
end
return {'labelled', ''}
