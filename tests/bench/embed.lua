-- Distinct embedding requests for wrk, built once; arguments: HOST:PORT MODEL INPUTS-PER-REQUEST.
-- Prints the outcome as `bench key value` lines, since wrk's own words round and mix units.

local built = {}
local last = 0

function init(args)
  local host, model, inputs = args[1], args[2], tonumber(args[3])
  -- More than ever are in flight at once, so that no two of those have the same text.
  local count = inputs == 1 and 4096 or 512
  local number = 0
  for i = 1, count do
    local texts = {}
    for j = 1, inputs do
      number = number + 1
      -- Lengths differ, since the debug engine answers with them; about ten words of plain English each.
      texts[j] = string.format('"the quick brown fox %d jumps over the lazy dog%s"', number, string.rep(" x", number % 16))
    end
    local input = inputs == 1 and texts[1] or "[" .. table.concat(texts, ",") .. "]"
    local body = string.format('{"model":"%s","input":%s}', model, input)
    built[i] = string.format(
      "POST /embeddings HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s",
      host, #body, body)
  end
end

function request()
  last = last % #built + 1
  return built[last]
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.status
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  print(string.format("bench requests %d", summary.requests))
  print(string.format("bench seconds %.6f", summary.duration / 1e6))
  print(string.format("bench failed %d", failed + lost))
  print(string.format("bench p50_us %d", latency:percentile(50)))
  print(string.format("bench p99_us %d", latency:percentile(99)))
end
