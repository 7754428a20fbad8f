# regs.awk: regs.inc -> the SystemVerilog package (format=sv) or the table of README.md (format=md).
function field(n) { return parts[n] }
BEGIN {
  if (format == "sv") {
    print "// Generated from regs.inc by `make regs`: change that file, not this one."
    print "package halut_regs_pkg;"
  } else {
    print "| offset | name | access | meaning |"
    print "| --- | --- | --- | --- |"
  }
}
/^HALUT_REG\(/ {
  line = $0
  sub(/^HALUT_REG\(/, "", line); sub(/\)$/, "", line)
  text = line; sub(/^[^"]*"/, "", text); sub(/"$/, "", text)
  split(line, parts, /, */)
  if (format == "sv") {
    printf "  localparam logic [7:0] %s = 8'h%s;  // %s\n", field(1), substr(field(2), 3), text
  } else
    printf "| `%s` | `%s` | %s | %s |\n", field(2), field(1), field(3), text
}
END { if (format == "sv") print "endpackage" }
