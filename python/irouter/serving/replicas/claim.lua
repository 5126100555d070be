-- Divides the slots of instances among replicas. KEYS: when the group began, then a hash of claims per instance.
-- ARGV: replica, its time to live in ms, replicas that it last knew of, then per instance: slots, requests there,
-- slots wanted, context tokens, output tokens. A claim is "granted requests wanted context output expires_ms".
-- Returns per instance: granted, replicas, and of the other replicas: requests, context tokens, output tokens (mean).
local replica, ttl, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('SET', KEYS[1], now, 'NX')
redis.call('PEXPIRE', KEYS[1], ttl * 10)
-- Claims of before may be lost: for one time to live nobody gets more than a share among those known.
local young = now - tonumber(redis.call('GET', KEYS[1])) < ttl
local answer = {}
for number = 2, #KEYS do
  local at = 4 + (number - 2) * 5
  local slots, used, wanted = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local replicas, granted, requests, context, output, poor = 1, 0, 0, 0, 0, nil
  local claims = redis.call('HGETALL', KEYS[number])
  for index = 1, #claims, 2 do
    if claims[index] ~= replica then
      local field = {}
      for value in string.gmatch(claims[index + 1], '%S+') do field[#field + 1] = tonumber(value) end
      if field[6] <= now then
        redis.call('HDEL', KEYS[number], claims[index])
      else
        replicas = replicas + 1
        granted = granted + field[1]
        requests = requests + field[2]
        context = context + field[4]
        output = output + field[2] * field[5]
        if field[3] > field[1] and (poor == nil or field[1] < poor) then poor = field[1] end
      end
    end
  end
  local share = math.max(1, math.floor(slots / replicas))
  local grant = math.min(wanted, slots - granted)
  if poor ~= nil and poor < share then grant = math.min(grant, share) end
  if young then grant = math.min(grant, math.max(1, math.floor(slots / math.max(known, replicas)))) end
  -- What is promised stays promised.
  grant = math.max(grant, used, 0)
  local claim = {grant, used, wanted, ARGV[at + 3], ARGV[at + 4], now + ttl}
  redis.call('HSET', KEYS[number], replica, table.concat(claim, ' '))
  redis.call('PEXPIRE', KEYS[number], ttl * 10)
  answer[#answer + 1] = {grant, replicas, requests, context, requests > 0 and math.floor(output / requests) or 0}
end
return answer
