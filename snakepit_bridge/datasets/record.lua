-- Library: records a prediction in the stream of its program.
--
-- ARGV[at]      the index in KEYS of the program's stream, behind which stands the key that says where the prediction is
--               recorded; 0 for no record, which is all of the arguments then
-- ARGV[at + 1]  how many records the stream keeps
-- ARGV[at + 2]  seconds for which it keeps them
-- ARGV[at + 3]  the prediction's id
-- ARGV[at + 4]  the record, opaque bytes
--
-- add_record returns the index behind these arguments. It never raises: a key of another type mustn't cost a prediction
-- its result.
local function add_record(at)
  local stream = tonumber(ARGV[at])
  if stream == 0 then
    return at + 1
  end
  local most, expires_s = ARGV[at + 1], tonumber(ARGV[at + 2])
  local oldest_ms = (redis.call('TIME')[1] - expires_s) * 1000
  local entry = redis.pcall('XADD', KEYS[stream], 'MAXLEN', most, '*', 'task', ARGV[at + 3], 'record', ARGV[at + 4])
  redis.pcall('XTRIM', KEYS[stream], 'MINID', string.format('%d', math.max(oldest_ms, 0)))
  redis.pcall('EXPIRE', KEYS[stream], expires_s)
  local place = type(entry) == 'string' and entry .. ' ' .. KEYS[stream] or ''
  redis.pcall('SET', KEYS[stream + 1], place, 'EX', expires_s)
  return at + 5
end
