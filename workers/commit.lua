-- needs: final_state, sums, counts, record
-- Commits a task's state: the first final state wins, and no state follows it.
--
-- KEYS[1]  the task's result, which is also the pub/sub channel of Celery's own clients
-- KEYS[2…] the lists of messages to enqueue, then hashes with the counts of its arms, the keys of its record, and hashes
--          with the sums of what predictions cost, if there are any, and last its LM calls and the prediction's journal
-- ARGV[1]  the result, opaque bytes
-- ARGV[2]  its TTL in seconds; 0 for none
-- ARGV[3]  the reply channel of the waiting client, or ''
-- ARGV[4]  the message for that channel: the task's id
-- ARGV[5]  the journal's place in KEYS; 0 for none
-- ARGV[6]  the place of its LM calls in KEYS; 0 for none
-- ARGV[7]  its LM calls, opaque bytes
-- ARGV[8]  how many messages to enqueue, then for each its list's place in KEYS, and its bytes
-- ARGV[…]  what to add to the counts (see counts.lua), the record (see record.lua), then what to add to the sums (see
--          sums.lua)
--
-- Returns false if this result is stored, now or by an earlier run of this call, or how many sums it couldn't add to;
-- otherwise the earlier final state.

-- Enqueues the messages from ARGV[first] on, and returns the place behind them.
local function enqueue(first)
  local behind = first + 1 + 2 * ARGV[first]
  for at = first + 1, behind - 1, 2 do
    redis.call('LPUSH', KEYS[tonumber(ARGV[at])], ARGV[at + 1])
  end
  return behind
end

if ARGV[5] ~= '0' then
  redis.call('DEL', KEYS[tonumber(ARGV[5])])
end
local there = redis.call('GET', KEYS[1])
if there ~= ARGV[1] and final_state(there) then
  return there
end
-- Stores a value for as long as the result.
local function keep(key, value)
  if ARGV[2] == '0' then
    redis.call('SET', key, value)
  else
    redis.call('SET', key, value, 'EX', ARGV[2])
  end
end

keep(KEYS[1], ARGV[1])
if ARGV[6] ~= '0' then
  keep(KEYS[tonumber(ARGV[6])], ARGV[7])
end
-- Once for each prediction: by the run whose result counts, and not when that run's call is sent again.
local failed = 0
if there ~= ARGV[1] then
  failed = add_sums(add_record(add_counts(enqueue(8))))
end
redis.call('PUBLISH', KEYS[1], ARGV[1])
if ARGV[3] ~= '' then
  redis.call('PUBLISH', ARGV[3], ARGV[4])
end
return failed > 0 and failed
