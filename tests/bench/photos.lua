-- For wrk: posts photographs in turn, each as the field `file` of a form, and prints what came of it as one line of JSON.
-- After the URL and --: the files.
local boundary = "catdog-bench"
local bodies, number = {}, 0

function init(files)
  for _, name in ipairs(files) do
    local file = assert(io.open(name, "rb"))
    local body = "--" .. boundary .. '\r\nContent-Disposition: form-data; name="file"; filename="photo.jpg"\r\n'
      .. "Content-Type: image/jpeg\r\n\r\n" .. file:read("*a") .. "\r\n--" .. boundary .. "--\r\n"
    file:close()
    bodies[#bodies + 1] = wrk.format("POST", nil, {["Content-Type"] = "multipart/form-data; boundary=" .. boundary}, body)
  end
end

function request()
  number = number % #bodies + 1
  return bodies[number]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "not_200": %d, "broken": %d, "timeouts": %d, "p50_ms": %.3f, "p95_ms": %.3f, "p99_ms": %.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(95) / 1e3, latency:percentile(99) / 1e3))
end
