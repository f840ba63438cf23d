-- Library: adds a prediction to hourly sums.
--
-- ARGV[first]      the TTL of a sum's hash in seconds
-- ARGV[first + 1]  the most groups of a hash; beyond them a new group is counted under another name
-- Then for each group: the index of its hash in KEYS, its name, that other name, and nine amounts.
--
-- A sum is the text of its amounts. The last two are money, as whole microdollars and the picodollars beyond them, which
-- keeps each number far below 2^53, up to where Lua's doubles are exact.
--
-- add_sums returns how many sums it couldn't add to. It never raises: a key of another type, or a sum that would exceed
-- those 2^53, must not cost a prediction its result.
local SUM = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
local NOTHING = '0 0 0 0 0 0 0 0 0'
local PICO_PER_MICRO, MOST = 1000000, 9007199254740992

-- Returns the text of a sum with the amounts from ARGV[at] on added to it; nil if that can't be.
local function added(sum, at)
  local amounts = {string.match(sum, SUM)}
  if #amounts == 0 then
    return nil
  end
  for index = 1, #amounts do
    amounts[index] = amounts[index] + ARGV[at + index - 1]
  end
  amounts[8], amounts[9] = amounts[8] + math.floor(amounts[9] / PICO_PER_MICRO), amounts[9] % PICO_PER_MICRO
  if math.max(unpack(amounts)) > MOST then
    return nil
  end
  return string.format('%d %d %d %d %d %d %d %d %d', unpack(amounts))
end

local function add_sums(first)
  local most, failed = tonumber(ARGV[first + 1]), 0
  for at = first + 2, #ARGV, 12 do
    local key, group, groups = KEYS[tonumber(ARGV[at])], ARGV[at + 1], 1
    local sum = redis.pcall('HGET', key, group)
    if not sum then
      groups = redis.pcall('HLEN', key)
      if groups >= most then
        group = ARGV[at + 2]
        sum = redis.pcall('HGET', key, group)
      end
    end
    local text = (not sum or type(sum) == 'string') and added(sum or NOTHING, at + 3)
    if not text or type(redis.pcall('HSET', key, group, text)) ~= 'number' then
      failed = failed + 1
    elseif groups == 0 then
      redis.pcall('EXPIRE', key, ARGV[first])
    end
  end
  return failed
end
