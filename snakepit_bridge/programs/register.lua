-- needs: redis/audit
-- Adds a version of a program, or finds that the newest one has this content already.
--
-- KEYS[1]  hash of the program: "latest" and "label:<name>" and "version:<n>", each "<n> <digest>"
-- KEYS[2]  the spec, as the opaque bytes that the client encoded
-- ARGV     digest, spec, author; then those of redis/audit
--
-- Returns "<n> <digest>", or what stands there instead if that isn't of this form; nothing is written then. Running it
-- twice, as a client does that lost the first answer, adds nothing the second time.
local latest = redis.call('HGET', KEYS[1], 'latest')
local number = 0
if latest then
  local known, digest = string.match(latest, '^(%d+) (%x+)$')
  if not known or digest == ARGV[1] then
    return latest
  end
  number = tonumber(known)
end
local entry = string.format('%d %s', number + 1, ARGV[1])
redis.call('SET', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[1], 'latest', entry, 'version:' .. (number + 1), entry)
record_change('register', ARGV[3], '', latest and tostring(number) or '', tostring(number + 1))
return entry
