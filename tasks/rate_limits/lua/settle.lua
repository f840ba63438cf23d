-- needs: permits
-- Settle a finished call.
-- ARGV: permit, channel of the scheduler, then the actual requests, tokens and money; '' for one that stays as charged.
-- Returns 1, or 0 if it was settled before.

local id = ARGV[1]
local record = permit(id)
if not record then
  return 0
end
local freed = finish(id, record, {tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])})
if freed and redis.call('HEXISTS', key('waiting'), record[2]) == 1 then
  redis.call('PUBLISH', ARGV[2], record[2])
end
return 1
