-- needs: lanes
-- Release tasks from one session's queue, each with a reservation for its first call.
-- ARGV: profile, session, budget, tasks at most, reservations at most, lease of a reservation in ms, then the buckets.
-- Returns {released, their cost, why it stopped, wait in ms, cost of the next}. Reasons: 'empty' no more tasks, 's' the
-- session's limit, 'p' the profile's limit, 'budget' too little left for the next, 'many' the maximum was released.
-- A cost is the largest share of a limit that a call takes.
-- Not idempotent: a second run releases further tasks, each with its own reservation.

local profile, session = ARGV[1], ARGV[2]
local budget, most, most_reserved, lease = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local buckets, now = buckets_at(7), clock()

local function share(costs)
  local share = TINY
  for _, bucket in ipairs(buckets) do
    if bucket.whose == 'p' and bucket.limit > 0 then
      share = math.max(share, costs[bucket.counts] / bucket.limit)
    end
  end
  return share
end

local function held_up(costs)
  local whose, wait = obstacle(profile, buckets, costs, now)
  if whose then
    return whose, wait
  end
  local under_way = tonumber(redis.call('HGET', key('under_way'), reserved_of(profile)) or nil) or 0
  if under_way >= most_reserved or others_wait_in_place(profile, now) then
    return 'p', 20
  end
end

lapse(now)
local released, spent = 0, 0
while true do
  local task = redis.call('ZRANGE', lane_of(profile, session), 0, 0)[1]
  while task and is_deserted(task, now) do
    take_out(task, profile, session)
    task = redis.call('ZRANGE', lane_of(profile, session), 0, 0)[1]
  end
  if not task then
    redis.call('ZREM', sessions_of(profile), session)
    return {released, number(spent), 'empty', '0', '0'}
  end
  local _, _, tokens, money = parked(task)
  local costs = {1, tokens, money}
  local cost = share(costs)
  if released >= most then
    return {released, number(spent), 'many', '0', number(cost)}
  elseif spent + cost > budget * (1 + TINY) then
    return {released, number(spent), 'budget', '0', number(cost)}
  end
  local whose, wait = held_up(costs)
  if whose then
    if whose == 'p' then
      contend(profile)
    end
    return {released, number(spent), whose, number(wait), number(cost)}
  end
  grant('r:' .. task, RESERVED, profile, buckets, costs, now, lease)
  unpark(task, profile, session)
  released, spent = released + 1, spent + cost
end
