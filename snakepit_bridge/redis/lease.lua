-- Takes a turn, keeps it, gives it back, or changes a record for as long as it is held. Run twice it answers alike.
-- KEYS: the turn, and the record. ARGV: who asks, what for, milliseconds that the turn lasts; of a record that is
-- noted its bytes and the seconds that it is kept.
-- Answers 1 if the asker has, or had, the turn. One that has passed on is taken anew by 'take' alone: whoever had it
-- meanwhile may have ended its work.

local holder = redis.call('GET', KEYS[1])
if not holder and ARGV[2] == 'take' then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
  return 1
end
if holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == 'end' then
  redis.call('DEL', KEYS[1])
  return 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if ARGV[2] == 'note' then
  redis.call('SET', KEYS[2], ARGV[4], 'EX', ARGV[5])
elseif ARGV[2] == 'forget' then
  redis.call('DEL', KEYS[2])
end
return 1
