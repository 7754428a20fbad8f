#!/usr/bin/env bash
# mutants.sh [NAME...]: faults put into limits and accounts of the daemon are caught by the suites named here.
#
# By hand, not by `make test`: each fault is built and run by itself, 20 minutes in all. HALUT_BUILD is the folder that
# make filled (build); the work is done in a copy of the tree. NAMEs choose faults. A sed that changes nothing fails.
set -u
cd "$(dirname "$0")/../.." || exit 2
build=$(realpath "${HALUT_BUILD:-build}") work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git ls-files -z | xargs -0 cp -p --parents -t "$work" && cp -a "$build" "$work/build" && cd "$work" || exit 2
passed=0 failed=0
wanted=" $* "

# What is wrong; file; suites of which one must fail; in the next line a sed -E.
while IFS=';' read -r name file suites && read -r change; do
  [ "$wanted" = "  " ] || [[ $wanted == *" ${name// /-} "* ]] || continue
  file=${file// /}
  cp -p "$file" "$work/original"
  sed -i -E "$change" "$file"
  # shellcheck disable=SC2086 # one word a suite
  if cmp -s "$file" "$work/original"; then
    verdict="the sed changes nothing in $file"
  elif ! make -s tests >"$work/log" 2>&1; then
    verdict="does not build: $(grep -m 1 error: "$work/log")"
  elif tests/run.sh build $suites >"$work/log" 2>&1; then
    verdict="not caught by$suites"
  else
    verdict=caught
  fi
  if [ "$verdict" = caught ]; then
    passed=$((passed + 1))
    echo "ok   $name: caught by $(sed -nE 's/^FAIL ([a-z_]+) .*/\1/p' "$work/log" | paste -sd' ')"
  else
    failed=$((failed + 1))
    echo "FAIL $name: $verdict"
  fi
  cp "$work/original" "$file"
done <<'T'
place of the default taken by compressed bodies; server/admission.c; limits
  s/request->coding != HALUT_IDENTITY \|\|/false ||/
place of the default taken by JSON; server/admission.c; limits
  s/request->body_bytes > 0 && memchr/request->body_bytes == 0 \&\& memchr/
place of the default not taken; server/admission.c; limits
  s/request->coding != HALUT_IDENTITY \|\|/true ||/
queue one too long; server/batcher.c; check_batcher
  s/lane->waiting >= batcher->limits/lane->waiting > batcher->limits/
late work is done; server/batcher.c; check_batcher
  s/item->status = item->deadline_ns <= now_ns \?/item->status = item->deadline_ns + UINT32_MAX <= now_ns ?/
share of idle workers not left; server/batcher.c; check_batcher
  s/if \(share < wanted\)/if (share == 0)/
one header fewer; server/guard.c; check_guard limits
  s/if \(count > limits->headers_max\)/if (count >= limits->headers_max)/
one byte of headers fewer; server/guard.c; check_guard limits
  s/tally.bytes > limits->header_bytes_max/tally.bytes >= limits->header_bytes_max/
two framings let pass; server/guard.c; check_guard smuggling
  s/if \(tally.lengths > 0 && tally.encodings > 0\)/if (tally.lengths > 9 \&\& tally.encodings > 0)/
two hosts let pass; server/guard.c; check_guard smuggling
  s/\+\+tally->hosts > 1\)/++tally->hosts > 5)/
no host let pass; server/guard.c; check_guard smuggling
  s/is_11 && tally.hosts != 1/is_11 \&\& tally.hosts > 1/
large body refused after it was sent; server/request.c; daemon limits
  s/framing.content_length > request->private.body_max\)/framing.content_length == UINT64_MAX)/
chunks one byte too long; server/request.c; daemon limits
  s/(request->body_bytes \+ piece > request->private.body_max)\)/\1 + 1)/
bytes of all bodies not given back; server/request.c; daemon limits
  s/^  atomic_fetch_sub\(&request->http->body_bytes, request->private.capacity\);//
bytes of all bodies not bounded; server/request.c; daemon limits
  s/\+ more <= http->options.body_total_max\)/+ more <= http->options.body_total_max + UINT32_MAX)/
one request a connection more; server/request.c; limits
  s/->requests >= most && most > 0;/->requests > most \&\& most > 0;/
a model's queue one longer; server/job.c; limits
  s/\(&entry->pending, 1\) >= most/(\&entry->pending, 1) > most/
a model's queue never shorter; server/job.c; limits
  s/^  job->counted = entry;//
one connection an address more; server/http.c; daemon limits
  s/return count >= limit;/return count > limit;/
one connection more in all; server/http.c; daemon exhaustion limits
  s/if \(http->connections >= http->options.connections_max\)/if (http->connections > http->options.connections_max)/
no end of a slow request; server/http.c; daemon chaos
  s/request_ms = http->options.request_timeout_ms,/request_ms = http->options.request_timeout_ms + 1000000,/
no end of the drain; server/http.c; daemon
  s/is_past_drain = http->draining && .*/is_past_drain = false;/
late items fill a batch; server/batcher.c; check_batcher
  s/if \(item->status == HALUT_OK\)/if (item != NULL)/
lanes do not take turns; server/batcher.c; check_batcher
  s/batcher->turn = \(index \+ 1\)/batcher->turn = (index + 0)/
names of headers not counted; server/guard.c; check_guard
  s/tally.bytes \+= headers\[i\].name_bytes \+ /tally.bytes += /
second length let pass; server/guard.c; check_guard
  s/\+\+tally->lengths > 1/++tally->lengths > 2/
a length wraps around; server/guard.c; check_guard
  s/__builtin_mul_overflow\(length, 10, &length\) \|\|/((length *= 10) == 1 \&\& length == 0) ||/
announced body one byte short; server/request.c; daemon
  s/framing.content_length > request->private.body_max/framing.content_length >= request->private.body_max/
all bodies one byte short; server/request.c; limits
  s/\+ more <= http->options.body_total_max/+ more < http->options.body_total_max/
full memory is 500; server/request.c; limits
  /^static bool body_reserve/,/^}/s/request_refuse\(request, 503,/request_refuse(request, 500,/
refused charge kept; server/request.c; limits
  /^static bool body_charge/,/^}/s/atomic_fetch_sub.*/;/
charge of a bomb kept; server/request.c; compressed
  /^int halut_request_inflate/,/^}/s/atomic_fetch_sub\(&http->body_bytes, charged\)/(void)charged/
lost request answered; server/request.c; chaos
  s/^  if \(request->private.hold == HOLD_LOST\)/  if (request->private.hold > HOLD_LOST)/
lost request ended at once; server/request.c; chaos
  s/^  if \(request->private.state != REQUEST_PARKED\)/  if (request->private.state != REQUEST_SENT + 1)/
lost request kept for ever; server/request.c; chaos
  /^void halut_http_resume/,/^}/s/^    request_end\(request, false\);//
ended connections stay counted; server/http.c; daemon
  s/if \(--http->connections == 0/if (http->connections == 0/
accepting does not go on; server/http.c; exhaustion
  s/^  http->paused = http->starved = false;/  return;/
full queue is 500; server/admission.c; daemon
  s/job->request, 503, "%u requests/job->request, 500, "%u requests/
full queue not counted; server/admission.c; daemon
  /^  int error = halut_pool_submit/,/^}/s/app->metrics.rejected_queue\+\+;/;/
full model not counted; server/admission.c; limits
  /!halut_job_count/,/halut_request_error/s/app->metrics.rejected_queue\+\+;/;/
job of a full model not counted; server/admission.c; limits
  s/app->metrics.rejected_queue \+= job->crowded;/;/
left client not counted; server/admission.c; limits
  s/app->metrics.canceled \+= job->peer_left;/;/
late job not counted; server/admission.c; daemon
  s/app->metrics.timed_out\+\+;/(void)0;/
T
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
