-- needs: clock
-- Library: buckets. A call is charged to all buckets that apply to it, or to none.
--
-- KEYS[1] of every script is the prefix of the limits' keys. It contains their hash tag, so all keys that a script
-- derives from it are on one node.
--
-- A bucket with a window combines two algorithms. A sliding-window log, in slices, never admits more than the limit in
-- any window, as providers require that count exactly. A token bucket refills evenly and holds at most a short burst,
-- as providers require that also look at parts of a minute; it keeps a minute's quota from being spent in the first
-- second. A call larger than the burst makes the level negative, and the next call waits.
-- A bucket without a window counts calls in flight.

local SLICES = 120
local TINY = 1e-9

local function key(name)
  return KEYS[1] .. name
end

local function number(value)
  return string.format('%.17g', value)
end

-- Parse the buckets in ARGV from an index on: their number, then for each its name, owner ('s' for session, 'p' for
-- profile), index of the cost that it counts, window, limit, rate per millisecond and burst.
local function buckets_at(place)
  local buckets = {}
  for i = 1, tonumber(ARGV[place]) do
    local at = place + 1 + (i - 1) * 7
    buckets[i] = {
      name = ARGV[at], whose = ARGV[at + 1], counts = tonumber(ARGV[at + 2]), window = tonumber(ARGV[at + 3]),
      limit = tonumber(ARGV[at + 4]), rate = tonumber(ARGV[at + 5]), burst = tonumber(ARGV[at + 6]),
    }
  end
  return buckets
end

-- Remove slices older than the window from the log; returns the sum of the others.
local function sum_of_window(hash, bucket, sum, last)
  if not last or bucket.slice <= last then
    bucket.slice = math.max(bucket.slice, last or bucket.slice)
    return sum
  end
  local gone = {}
  for slice = last - SLICES, math.min(last, bucket.slice - SLICES - 1) do
    gone[#gone + 1] = number(slice)
  end
  if #gone > 0 then
    for _, amount in ipairs(redis.call('HMGET', hash, unpack(gone))) do
      sum = sum - (tonumber(amount or nil) or 0)
    end
    redis.call('HDEL', hash, unpack(gone))
  end
  if sum < TINY then
    sum = 0
  end
  redis.call('HSET', hash, 'sum', number(sum), 'slice', number(bucket.slice))
  return sum
end

-- Read a bucket's current state into its table.
local function read(bucket, now)
  if bucket.window == 0 then
    bucket.sum = tonumber(redis.call('HGET', key('under_way'), bucket.name) or nil) or 0
    return
  end
  local hash = key('bucket:' .. bucket.name)
  local said = redis.call('HMGET', hash, 'level', 'at', 'sum', 'slice')
  bucket.slice = math.floor(now * SLICES / bucket.window)
  bucket.sum = sum_of_window(hash, bucket, tonumber(said[3] or nil) or 0, tonumber(said[4] or nil))
  bucket.level = bucket.burst
  if said[1] and said[2] then
    local refilled = tonumber(said[1]) + math.max(0, now - tonumber(said[2])) * bucket.rate
    bucket.level = math.min(bucket.burst, refilled)
  end
end

-- Return the milliseconds until a bucket may have room; 0 if it has room now.
local function wait_for(bucket, cost, now)
  if bucket.window == 0 then
    return bucket.sum + cost > bucket.limit and 50 or 0
  end
  local wait = 0
  -- A call larger than the whole limit is admitted in an empty window; otherwise it never would be.
  if bucket.limit <= 0 or (bucket.sum > TINY and bucket.sum + cost > bucket.limit + TINY) then
    local slice = bucket.window / SLICES
    wait = slice - now % slice + 1
  end
  if bucket.rate > 0 then
    local short = math.min(cost, bucket.burst) - bucket.level
    if short > TINY then
      wait = math.max(wait, short / bucket.rate)
    end
  end
  return wait
end

-- Charge a cost to a bucket that was read; returns its slice.
local function charge(bucket, cost, now)
  if bucket.window == 0 then
    redis.call('HINCRBY', key('under_way'), bucket.name, cost)
    return 0
  end
  local hash, slice = key('bucket:' .. bucket.name), number(bucket.slice)
  redis.call('HSET', hash, 'level', number(bucket.level - cost), 'at', number(now),
    'sum', number(bucket.sum + cost), 'slice', slice)
  redis.call('HINCRBYFLOAT', hash, slice, number(cost))
  redis.call('PEXPIRE', hash, bucket.window * 2)
  return bucket.slice
end

-- Correct what a bucket was charged in a slice: less is a refund; more is debt, charged from now on.
local function correct(name, window, slice, by)
  local hash = key('bucket:' .. name)
  local last = window > 0 and tonumber(redis.call('HGET', hash, 'slice') or nil)
  if not last or by == 0 then
    return
  end
  redis.call('HINCRBYFLOAT', hash, 'level', number(-by))
  if by > 0 then
    slice = last
  end
  if slice >= last - SLICES then
    redis.call('HINCRBYFLOAT', hash, number(slice), number(by))
    redis.call('HINCRBYFLOAT', hash, 'sum', number(by))
  end
end
