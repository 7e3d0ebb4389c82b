// What a master drives on an AXI port, what it sees, and the rules between the two.

#pragma once

#include <cstdint>
#include <cstring>

namespace celosia {

constexpr int kMaxPorts = 4, kMaxPortBytes = 16;

// What a port's master drives in a cycle, and what the memory answers.
struct PortIn {
    bool arvalid, rready, awvalid, wvalid, wlast, bready;
    uint8_t arlen, arid, awlen;
    uint16_t wstrb;
    uint64_t araddr, awaddr;
    uint8_t wdata[kMaxPortBytes];
};

struct PortOut {
    bool arready, rvalid, rlast, awready, wready, bvalid;
    uint8_t rid, rresp, bresp;
    const uint8_t *rdata;
};

// Keeps the first thing that a master did against the rules: what is asked for stays as it is until it is taken, a burst
// starts at a beat and does not cross 4 KiB, wlast is on the last beat. The codes are known to celosia.sim_tb.memory.
class AxiRules {
  public:
    enum Kind : uint32_t { kNone, kCrosses4K, kUnaligned, kValidDropped, kPayloadChanged, kWrongLast };
    enum Channel : uint32_t { kAr, kAw, kW };

    explicit AxiRules(int port_bytes) : port_bytes_(port_bytes) {}

    uint32_t violation() const { return violation_; }  // kind | channel << 8 | port << 16, 0 if none
    uint64_t violation_cycle() const { return violation_cycle_; }

    void violate(uint64_t now, Kind kind, Channel channel, int port) {
        if (violation_) return;
        violation_ = kind | channel << 8 | uint32_t(port) << 16;
        violation_cycle_ = now;
    }

    // What a master drives in cycle `now` while it sees `out`.
    void check(uint64_t now, int p, const PortIn &in, const PortOut &out) {
        Waiting &port = waiting_[p];
        const PortIn &before = port.before;
        if (port.ar) {
            if (!in.arvalid) violate(now, kValidDropped, kAr, p);
            else if (in.araddr != before.araddr || in.arlen != before.arlen || in.arid != before.arid)
                violate(now, kPayloadChanged, kAr, p);
        }
        if (port.aw) {
            if (!in.awvalid) violate(now, kValidDropped, kAw, p);
            else if (in.awaddr != before.awaddr || in.awlen != before.awlen) violate(now, kPayloadChanged, kAw, p);
        }
        if (port.w) {
            if (!in.wvalid) violate(now, kValidDropped, kW, p);
            else if (in.wlast != before.wlast || in.wstrb != before.wstrb || std::memcmp(in.wdata, before.wdata, port_bytes_))
                violate(now, kPayloadChanged, kW, p);
        }
        if (in.arvalid && !port.ar) address(now, in.araddr, in.arlen, kAr, p);
        if (in.awvalid && !port.aw) address(now, in.awaddr, in.awlen, kAw, p);
        port.ar = in.arvalid && !out.arready;
        port.aw = in.awvalid && !out.awready;
        port.w = in.wvalid && !out.wready;
        if (port.ar || port.aw || port.w) port.before = in;
    }

  private:
    struct Waiting {
        PortIn before;
        bool ar, aw, w;
    };

    void address(uint64_t now, uint64_t addr, unsigned len, Channel channel, int p) {
        const uint64_t bytes = uint64_t(len + 1) * port_bytes_;
        if (addr % port_bytes_) violate(now, kUnaligned, channel, p);
        if (addr / 4096 != (addr + bytes - 1) / 4096) violate(now, kCrosses4K, channel, p);
    }

    int port_bytes_;
    Waiting waiting_[kMaxPorts] = {};
    uint32_t violation_ = 0;
    uint64_t violation_cycle_ = 0;
};

}  // namespace celosia
