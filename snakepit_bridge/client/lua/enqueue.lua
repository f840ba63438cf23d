-- needs: in_transit
-- Reserves idempotency keys and enqueues the one message for all of them, or does neither.
--
-- KEYS[1]     the list of the queue, where a stock client would push
-- KEYS[2..n]  a reservation for each key
-- ARGV        the message as stock bytes, seconds that a reservation is kept, then a record for each reservation, then
--             what the key of a task's result begins with, the base of the broker's claims, the prefix of the limits,
--             and the lists in which the fleet's messages wait
--
-- Returns what each reservation holds already, '' for none. If any holds something, nothing was written: the client
-- leaves those out and comes again. A reservation whose task has no result any more, and that no message asks for, holds
-- nothing: the prediction is made anew. Running it twice, as a client does that lost the first answer, finds its own
-- records. All keys are on one server: Celery can't use a cluster as its broker.
local count = #KEYS - 1
local results, base, limits = ARGV[count + 3], ARGV[count + 4], ARGV[count + 5]
local found, gone, any_gone = {}, {}, false
for place = 1, count do
  found[place] = redis.call('GET', KEYS[place + 1]) or ''
  local task = string.match(found[place], '^%S+ %S* (%S+)')
  if task and redis.call('EXISTS', results .. task) == 0 then
    gone[task], any_gone = true, true
  end
end
if any_gone then
  local lists = {}
  for place = count + 6, #ARGV do
    lists[#lists + 1] = ARGV[place]
  end
  in_transit(gone, lists, base, limits)
end
local taken = false
for place = 1, count do
  local task = string.match(found[place], '^%S+ %S* (%S+)')
  if task and gone[task] then
    found[place] = ''
  end
  taken = taken or found[place] ~= ''
end
if taken then
  return found
end
for place = 1, count do
  redis.call('SET', KEYS[place + 1], ARGV[place + 2], 'EX', ARGV[2])
end
redis.call('LPUSH', KEYS[1], ARGV[1])
return found
