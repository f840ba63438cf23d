-- Library: in_transit(wanted, lists, base, limits) removes from `wanted`, a set of task ids, those that a message
-- somewhere in the fleet asks for: one that waits in a list, is put aside, is held by a worker, stands in a lane of the
-- limits or waits for a batch of LM calls. A message names its tasks in its headers, as plain text.
--
-- It looks at so much and no more, since nothing else runs meanwhile; what it had no time for counts as being there.
local MOST_LOOKS = 200000
local AT_A_TIME = 200

local function in_transit(wanted, lists, base, limits)
  local looks = 0

  local function look(messages)
    for _, message in ipairs(messages) do
      for task in pairs(wanted) do
        looks = looks + 1
        if string.find(message, task, 1, true) then
          wanted[task] = nil
        end
      end
    end
    if looks > MOST_LOOKS then
      for task in pairs(wanted) do
        wanted[task] = nil
      end
    end
    return next(wanted) ~= nil
  end

  local function look_through(length, some)
    for first = 0, length - 1, AT_A_TIME do
      if not look(some(first, first + AT_A_TIME - 1)) then
        return
      end
    end
  end

  for _, list in ipairs(lists) do
    look_through(redis.call('LLEN', list), function(first, last) return redis.call('LRANGE', list, first, last) end)
  end
  local delayed = base .. ':delayed'
  look_through(redis.call('ZCARD', delayed), function(first, last) return redis.call('ZRANGE', delayed, first, last) end)
  for _, worker in ipairs(redis.call('HKEYS', base .. ':workers')) do
    if next(wanted) then
      look(redis.call('HVALS', base .. ':held:' .. worker))
    end
  end
  local batches = string.gsub(limits, '{limits}', '{lm-batches}')
  for task in pairs(wanted) do
    if redis.call('HEXISTS', limits .. 'messages', task) == 1 or redis.call('HEXISTS', batches .. 'parked', task) == 1 then
      wanted[task] = nil
    end
  end
end
