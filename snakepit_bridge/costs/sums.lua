-- Library: adds amounts to hourly sums. Amounts are passed to HINCRBY as text, since a Lua number is a double.
--
-- ARGV[first]      the TTL of a sum's hash in seconds
-- ARGV[first + 1]  the most fields of a hash; beyond them a new group is counted under another name
-- Then for each group: the index of its hash in KEYS, its name, that other name, the number of amounts, and for each
-- amount the name of its field and the amount. A field is `NAME:GROUP`. Every group has the field `p`.
--
-- Errors are ignored: a key of another type or a sum beyond 64 bits must not cost a prediction its result.
local function add_sums(first)
  local ttl, most, at = ARGV[first], tonumber(ARGV[first + 1]), first + 2
  while ARGV[at] do
    local key, group, last = KEYS[tonumber(ARGV[at])], ARGV[at + 1], at + 3 + 2 * tonumber(ARGV[at + 3])
    local fields = 1
    if redis.pcall('HEXISTS', key, 'p:' .. group) == 0 then
      fields = redis.pcall('HLEN', key)
      if fields >= most then
        group = ARGV[at + 2]
      end
    end
    for amount = at + 4, last, 2 do
      redis.pcall('HINCRBY', key, ARGV[amount] .. ':' .. group, ARGV[amount + 1])
    end
    if fields == 0 then
      redis.pcall('EXPIRE', key, ttl)
    end
    at = last + 1
  end
end
