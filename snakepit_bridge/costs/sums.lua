-- Library: adds a prediction to hourly sums.
--
-- ARGV[first]      the TTL of a sum's hash in seconds
-- ARGV[first + 1]  the most groups of a hash; beyond them a new group is counted under another name
-- Then for each group: the index of its hash in KEYS, its name, that other name, and nine amounts.
--
-- A sum is the text of its amounts. The last two are money, as whole microdollars and the picodollars beyond them, which
-- keeps each number far below 2^53, up to where Lua's doubles are exact.
--
-- Errors are ignored: a key of another type must not cost a prediction its result.
local SUM = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$'
local PICO_PER_MICRO = 1000000

-- Returns the text of a sum with the amounts from ARGV[at] on added to it.
local function added(sum, at)
  local predictions, calls, unpriced, given, cached, written, reasoning, micro, pico = string.match(sum, SUM)
  pico = pico + ARGV[at + 8]
  return string.format('%d %d %d %d %d %d %d %d %d',
    predictions + ARGV[at], calls + ARGV[at + 1], unpriced + ARGV[at + 2], given + ARGV[at + 3], cached + ARGV[at + 4],
    written + ARGV[at + 5], reasoning + ARGV[at + 6],
    micro + ARGV[at + 7] + math.floor(pico / PICO_PER_MICRO), pico % PICO_PER_MICRO)
end

local function add_sums(first)
  local most = tonumber(ARGV[first + 1])
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
    if not sum or type(sum) == 'string' then
      redis.pcall('HSET', key, group, added(sum or '0 0 0 0 0 0 0 0 0', at + 3))
    end
    if groups == 0 then
      redis.pcall('EXPIRE', key, ARGV[first])
    end
  end
end
