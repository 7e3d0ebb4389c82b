// Streams of sequential reads, with writes among them, on the ports of the memory model: a C interface for
// celosia.sim_tb.traffic.

#include "memory.hpp"

namespace {

using celosia::Memory;
using celosia::PortIn;
using celosia::PortOut;

struct Stream {
    uint64_t address, bytes;          // read from here, so many
    uint64_t write_address;           // results go here, one after the other
    uint64_t start;                   // cycle of the first request
    uint32_t burst_beats, outstanding;
    uint32_t write_every;             // bytes read for one write burst; 0: no writes
    uint32_t write_beats;
};

// What a master does wrong.
enum Fault : uint32_t { kNone, kCross4K, kDropValid, kChangePayload, kWrongLast };

struct Master {
    Stream stream;
    uint64_t asked = 0, came = 0;     // bytes
    uint32_t flying = 0;
    uint64_t to_write = 0;            // bursts whose reads have come and that are not yet asked for
    uint64_t reads_for_write = 0;
    uint32_t beats_left = 0, unanswered = 0;
    bool waited = false;
    uint64_t done = 0;                // cycle

    bool finished() const { return came >= stream.bytes; }
};

}  // namespace

extern "C" {

// Runs until every stream has come and every write is answered; done[p] is the cycle of the last beat of port p, and
// done[n_ports] that of the last answer. Returns 0, 1 at the limit of cycles, 2 at a
// violation (*violation is its code and done[n_ports] its cycle).
int celosia_traffic(const celosia::Timing *timing, int n_ports, int port_bytes, const Stream *streams, uint32_t fault,
                    uint64_t limit, uint64_t *done, uint32_t *violation) {
    Memory memory(n_ports, port_bytes, 0, 0, *timing);
    Master masters[celosia::kMaxPorts];
    PortIn in[celosia::kMaxPorts] = {};
    bool ar[celosia::kMaxPorts] = {}, aw[celosia::kMaxPorts] = {};  // taken in this cycle
    for (int p = 0; p < n_ports; p++) masters[p].stream = streams[p];
    for (uint64_t now = 0; now < limit; now++) {
        bool busy = false;
        for (int p = 0; p < n_ports; p++) {
            Master &m = masters[p];
            const Stream &s = m.stream;
            PortIn &pins = in[p];
            if (now >= s.start && !pins.arvalid && m.asked < s.bytes && m.flying < s.outstanding) {
                uint64_t room = uint64_t(s.burst_beats) * port_bytes, left = s.bytes - m.asked;
                uint64_t page = 4096 - (s.address + m.asked) % 4096;
                if (room > left) room = left;
                if (room > page && fault != kCross4K) room = page;
                pins.arvalid = true;
                pins.araddr = s.address + m.asked;
                pins.arlen = room / port_bytes - 1;
            } else if (m.waited && m.asked && fault == kDropValid) {
                pins.arvalid = false;
            } else if (m.waited && m.asked && fault == kChangePayload) {
                pins.araddr += 4096;
            }
            pins.rready = true;
            if (!pins.awvalid && !pins.wvalid && m.to_write && m.unanswered < 8) {
                pins.awvalid = true;
                pins.awaddr = s.write_address;
                pins.awlen = s.write_beats - 1;
                m.beats_left = s.write_beats;
                m.to_write--;
                m.unanswered++;
            }
            pins.wvalid = m.beats_left > 0 && !pins.awvalid;
            pins.wstrb = 0xFFFF;
            pins.wlast = m.beats_left == 1 || (fault == kWrongLast && m.beats_left == 2);
            pins.bready = true;
        }
        for (int p = 0; p < n_ports; p++) {
            Master &m = masters[p];
            const PortOut &out = memory.out(p);
            PortIn &pins = in[p];
            const bool r = out.rvalid && pins.rready, w = pins.wvalid && out.wready;
            ar[p] = pins.arvalid && out.arready;
            aw[p] = pins.awvalid && out.awready;
            m.waited = pins.arvalid && !ar[p];
            if (ar[p]) {
                m.asked += uint64_t(pins.arlen + 1u) * port_bytes;
                m.flying++;
            }
            if (r) {
                m.came += port_bytes;
                m.reads_for_write += port_bytes;
                if (m.stream.write_every && m.reads_for_write >= m.stream.write_every) {
                    m.reads_for_write -= m.stream.write_every;
                    m.to_write++;
                }
                if (out.rlast) m.flying--;
                if (m.finished()) done[p] = now + 1;
            }
            if (w) m.beats_left--;
            if (out.bvalid && pins.bready) {
                m.unanswered--;
                done[n_ports] = now + 1;
            }
            busy |= !m.finished() || m.to_write || m.unanswered;
        }
        memory.clock(in);
        for (int p = 0; p < n_ports; p++) {
            if (ar[p]) in[p].arvalid = false;
            if (aw[p]) {
                in[p].awvalid = false;
                masters[p].stream.write_address += uint64_t(masters[p].stream.write_beats) * port_bytes;
            }
        }
        if ((*violation = memory.rules().violation())) {
            done[n_ports] = memory.rules().violation_cycle();
            return 2;
        }
        if (!busy) return 0;
    }
    return 1;
}

}
