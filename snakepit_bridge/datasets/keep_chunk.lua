-- Stores a chunk of a dataset's content, before the version that has it.
--
-- KEYS[1]  hash of the dataset's versions
-- KEYS[2]  hash of the content: chunks by number
-- ARGV     the content's digest, the chunk's number, the chunk, and the seconds until the content expires unless a
--          version has it
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
if redis.call('HEXISTS', KEYS[1], 'digest:' .. ARGV[1]) == 0 then
  redis.call('EXPIRE', KEYS[2], ARGV[4])
end
return 1
