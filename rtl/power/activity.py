#!/usr/bin/python3
"""activity.py NETLIST VCD PERIOD STILL: how often each pin of a netlist switches, as commands for OpenSTA.

NETLIST is flat, one pin a line, as yosys writes it. VCD has its nets, from the beginning to the end of what counts;
PERIOD is that of the clock, in ns. OpenSTA 2.0 reads no VCD itself. It also takes every net that the clock reaches for
a clock that never rests, and cannot be told otherwise; so STILL becomes a copy of NETLIST in which the gates of those
clocks that did not switch are taken off the clock. What is set before its first report_power is lost: read the commands
after one, and only the report after them counts.
"""
import re
import sys

CELL = re.compile(r"^  (\w+) (\S+) \($")
PIN = re.compile(r"^    \.(\w+)\((.+?) ?\),?$")
OUTPUTS = {"Z", "ZN", "Q", "QN", "CO", "Y", "YC", "YS"}
CLOCKS = {"G", "GN", "CK", "CLK"}


def plain(net):
    return net.lstrip("\\").strip()


def cells(path):
    """Yields (cell, instance, {pin: net})."""
    with open(path) as file:
        pins = None
        for line in file:
            if match := CELL.match(line):
                kind, name, pins = match[1], match[2], {}
            elif line.startswith("  );"):
                yield kind, name, pins
            elif pins is not None and (match := PIN.match(line)):
                pins[match[1]] = plain(match[2])


def read_vcd(path):
    """Returns {net: [transitions, time at 1]} and the time, in the units of the file. A change to or from x counts as
    none."""
    nets, width, last, since, count, high = {}, {}, {}, {}, {}, {}
    now = begin = None

    def change(key, bit):
        old = last.get(key)
        if old == bit:
            return
        if old == "1":
            high[key] = high.get(key, 0) + now - since[key]
        if old in ("0", "1") and bit in ("0", "1"):
            count[key] = count.get(key, 0) + 1
        last[key], since[key] = bit, now

    with open(path) as file:
        for line in file:
            if line.startswith("$var"):
                _, _, bits, symbol, name = line.split()[:5]
                span = line.split()[5]
                if int(bits) == 1:
                    nets[symbol, 0] = name.lstrip("\\") + (span if span.startswith("[") else "")
                for bit in range(int(bits) if int(bits) > 1 else 0):
                    nets[symbol, bit] = f"{name}[{bit}]"
                width[symbol] = int(bits)
            elif line[0] == "#":
                now = int(line[1:])
                begin = now if begin is None else begin
            elif line[0] in "01xz":
                change((line[1:].strip(), 0), line[0])
            elif line[0] == "b":
                bits, symbol = line[1:].split()
                bits = bits.rjust(width[symbol], "0" if bits[0] in "01" else bits[0])
                for bit in range(width[symbol]):
                    change((symbol, bit), bits[-1 - bit])
    for key, bit in last.items():
        if bit == "1":
            high[key] = high.get(key, 0) + now - since[key]
    return {net: (count.get(key, 0), high.get(key, 0)) for key, net in nets.items()}, now - begin


def write_still(netlist, path, gates, is_clock):
    """A copy of a netlist with the clock of some cells undriven."""
    with open(netlist) as source, open(path, "w") as copy:
        still = False
        for line in source:
            if match := CELL.match(line):
                still = match[2] in gates
            if still and (match := PIN.match(line)) and is_clock(plain(match[2])):
                line = line.replace("(" + match[2], "(clk_still")
            copy.write(line)


def main():
    netlist, vcd, period, still = sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.argv[4]
    seen, time = read_vcd(vcd)
    cycles = time / (period * 1000)  # the VCD is in ps
    pins_of, loads, drivers = {}, {}, {}
    for kind, name, pins in cells(netlist):
        for pin, net in pins.items():
            pins_of.setdefault(net, []).append(f"{name}/{pin}")
            if pin in OUTPUTS or pin == "S" and kind.startswith(("FA", "HA")):
                drivers[net] = name
            else:
                loads.setdefault(net, set()).add(pin)
    missing = [net for net in drivers if net not in seen]
    if missing:
        sys.exit(f"activity.py: {len(missing)} nets are not in {vcd}, one is {missing[0]}")
    write_still(netlist, still, {name for net, name in drivers.items()
                                 if seen[net][0] == 0 and loads.get(net, {""}) <= CLOCKS},
                lambda net: seen.get(net, (0, 0))[0] > 1.9 * cycles)
    print(f"# {cycles:.2f} cycles")
    print("proc pin {name transitions duty} {")
    print("  sta::set_power_pin_activity [lindex [get_pins $name] 0] $transitions $duty\n}")
    for net, pins in pins_of.items():
        for pin in pins:
            if net in seen:
                print(f"pin {{{pin}}} {seen[net][0] / cycles:.5g} {seen[net][1] / time:.4g}")


main()
