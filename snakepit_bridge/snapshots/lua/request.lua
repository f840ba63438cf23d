-- Library: a client that lost a reply sends its script again; within this time it gets the first reply and changes
-- nothing.

local REQUEST = KEYS[10]
local REQUEST_SECONDS = 300

local function answered()
  local answer = redis.call('GET', REQUEST)
  return answer and {'done', answer}
end

local function done(answer)
  redis.call('SET', REQUEST, answer, 'EX', REQUEST_SECONDS)
  return {'done', answer}
end
