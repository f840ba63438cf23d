-- Reserves idempotency keys and enqueues the one message for all of them, or does neither.
--
-- KEYS[1]     the list of the queue, where a stock client would push
-- KEYS[2..n]  a reservation for each key
-- ARGV        the message as stock bytes, seconds that a reservation is kept, then a record for each reservation
--
-- Answers what each reservation holds already, '' for none. If any holds something, nothing was written: the client
-- leaves those out and comes again. Running it twice, as a client does that lost the first answer, finds its own records.
-- All keys are on one server: Celery can't use a cluster as its broker.
local found, taken = {}, false
for place = 2, #KEYS do
  local there = redis.call('GET', KEYS[place])
  found[place - 1] = there or ''
  taken = taken or there
end
if taken then
  return found
end
for place = 2, #KEYS do
  redis.call('SET', KEYS[place], ARGV[place + 1], 'EX', ARGV[2])
end
redis.call('LPUSH', KEYS[1], ARGV[1])
return found
