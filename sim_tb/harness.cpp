// The compiled accelerator with its memory (memory.hpp): a C interface for celosia.sim_tb.device.
//
// Compile with -DN_PORTS=... -DPORT_BYTES=....

#include <cstdint>
#include <cstring>
#include <vector>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "memory.hpp"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

using celosia::Memory;
using celosia::PortIn;
using celosia::PortOut;
using celosia::Timing;

// Descriptors that every unit had finished, 16 bits a unit, and two of the accelerator's counters, after one of them changed.
struct Finished {
    uint64_t cycle, counts, matmul_busy, port0_beats;
};

struct ReadPins {
    CData *arvalid, *arready, *arid, *arlen, *rvalid, *rready, *rid, *rlast, *rresp;
    QData *araddr;
    void *rdata;
};

class Sim {
  public:
    Sim(uint64_t base, uint64_t size, const Timing &timing) : memory_(N_PORTS, PORT_BYTES, base, size, timing) {
        context_.randReset(0);
        top_ = new Vtop(&context_);
        bind();
        top_->clk = 0;
        top_->rst_n = 0;
        for (int i = 0; i < 4; i++) cycle();
        top_->rst_n = 1;
        cycle();
    }
    ~Sim() { top_->final(); delete top_; }

    Memory &memory() { return memory_; }

    // Run until the interrupt, a violation or `limit` cycles; returns whether the interrupt came.
    bool run(uint64_t limit) {
        for (uint64_t i = 0; i < limit && !memory_.rules().violation(); i++) {
            cycle();
            if (tracing_) trace();
            if (top_->irq) return true;
        }
        return false;
    }

    // Forget what was traced; trace from now on or no more.
    void set_tracing(bool on) { tracing_ = on; finished_.clear(); }
    const std::vector<Finished> &finished() const { return finished_; }

    bool write32(uint32_t addr, uint32_t value) {
        top_->s_axil_awaddr = addr; top_->s_axil_awvalid = 1;
        top_->s_axil_wdata = value; top_->s_axil_wstrb = 15; top_->s_axil_wvalid = 1;
        top_->s_axil_bready = 1;
        for (int i = 0; i < kLiteLimit; i++) {
            settle();
            bool aw = top_->s_axil_awvalid && top_->s_axil_awready, w = top_->s_axil_wvalid && top_->s_axil_wready;
            bool b = top_->s_axil_bvalid && top_->s_axil_bready;
            edge();
            if (aw) top_->s_axil_awvalid = 0;
            if (w) top_->s_axil_wvalid = 0;
            if (b) { top_->s_axil_bready = 0; return true; }
        }
        return false;
    }

    bool read32(uint32_t addr, uint32_t *value) {
        top_->s_axil_araddr = addr; top_->s_axil_arvalid = 1; top_->s_axil_rready = 1;
        for (int i = 0; i < kLiteLimit; i++) {
            settle();
            bool ar = top_->s_axil_arvalid && top_->s_axil_arready, r = top_->s_axil_rvalid && top_->s_axil_rready;
            uint32_t data = top_->s_axil_rdata;
            edge();
            if (ar) top_->s_axil_arvalid = 0;
            if (r) { top_->s_axil_rready = 0; *value = data; return true; }
        }
        return false;
    }

  private:
    static constexpr int kLiteLimit = 1000;

    void bind() {
#define BIND(p) \
        pins_[p] = {&top_->m_axi_##p##_arvalid, &top_->m_axi_##p##_arready, &top_->m_axi_##p##_arid, &top_->m_axi_##p##_arlen, \
                          &top_->m_axi_##p##_rvalid, &top_->m_axi_##p##_rready, &top_->m_axi_##p##_rid, &top_->m_axi_##p##_rlast, \
                          &top_->m_axi_##p##_rresp, &top_->m_axi_##p##_araddr, (void *)&top_->m_axi_##p##_rdata};
        BIND(0)
#if N_PORTS > 1
        BIND(1)
#endif
#if N_PORTS > 2
        BIND(2)
        BIND(3)
#endif
    }

    void cycle() { settle(); edge(); }

    void trace() {
        const Vtop___024root &root = *top_->rootp;
        uint64_t counts = root.celosia__DOT__core__DOT__dispatch__DOT__done_counts;
        if (finished_.empty() || counts != finished_.back().counts)
            finished_.push_back({memory_.now(), counts, root.celosia__DOT__registers__DOT__count_MATMUL_BUSY,
                                 root.celosia__DOT__registers__DOT__count_PORT0_BEATS});
    }

    // Drive the slave side with what the memory offers and let combinational outputs settle.
    void settle() {
        for (int p = 0; p < N_PORTS; p++) {
            const PortOut &out = memory_.out(p);
            ReadPins &pins = pins_[p];
            *pins.arready = out.arready;
            *pins.rvalid = out.rvalid;
            if (out.rvalid) {
                std::memcpy(pins.rdata, out.rdata, PORT_BYTES);
                *pins.rresp = out.rresp;
                *pins.rid = out.rid;
                *pins.rlast = out.rlast;
            }
        }
        const PortOut &out = memory_.out(0);
        top_->m_axi_0_awready = out.awready;
        top_->m_axi_0_wready = out.wready;
        top_->m_axi_0_bvalid = out.bvalid;
        top_->m_axi_0_bresp = out.bresp;
        top_->m_axi_0_bid = 0;
        top_->clk = 0;
        top_->eval();
    }

    void edge() {
        for (int p = 0; p < N_PORTS; p++) {
            PortIn &in = in_[p];
            ReadPins &pins = pins_[p];
            in.arvalid = *pins.arvalid;
            in.araddr = *pins.araddr;
            in.arlen = *pins.arlen;
            in.arid = *pins.arid;
            in.rready = *pins.rready;
        }
        PortIn &in = in_[0];
        in.awvalid = top_->m_axi_0_awvalid;
        in.awaddr = top_->m_axi_0_awaddr;
        in.awlen = top_->m_axi_0_awlen;
        in.wvalid = top_->m_axi_0_wvalid;
        in.wlast = top_->m_axi_0_wlast;
        in.wstrb = top_->m_axi_0_wstrb;
        if (in.wvalid) std::memcpy(in.wdata, (const void *)&top_->m_axi_0_wdata, PORT_BYTES);
        in.bready = top_->m_axi_0_bready;
        memory_.clock(in_);
        top_->clk = 1;
        top_->eval();
    }

    VerilatedContext context_;
    Vtop *top_;
    Memory memory_;
    ReadPins pins_[N_PORTS];
    PortIn in_[N_PORTS] = {};
    bool tracing_ = false;
    std::vector<Finished> finished_;
};

}  // namespace

extern "C" {
void *celosia_new(uint64_t base, uint64_t size, const Timing *timing) { return new Sim(base, size, *timing); }
void celosia_delete(void *sim) { delete (Sim *)sim; }
uint8_t *celosia_memory(void *sim) { return ((Sim *)sim)->memory().bytes(); }
uint64_t celosia_cycles(void *sim) { return ((Sim *)sim)->memory().now(); }
int celosia_run(void *sim, uint64_t limit) { return ((Sim *)sim)->run(limit); }
int celosia_write32(void *sim, uint32_t addr, uint32_t value) { return ((Sim *)sim)->write32(addr, value); }
int celosia_read32(void *sim, uint32_t addr, uint32_t *value) { return ((Sim *)sim)->read32(addr, value); }
void celosia_set_tracing(void *sim, int on) { ((Sim *)sim)->set_tracing(on); }
const uint64_t *celosia_finished(void *sim, uint64_t *n) {
    const std::vector<Finished> &finished = ((Sim *)sim)->finished();
    *n = finished.size();
    return (const uint64_t *)finished.data();
}
void celosia_set_dead(void *sim, int dead) { ((Sim *)sim)->memory().set_dead(dead); }
void celosia_set_error_range(void *sim, uint64_t lo, uint64_t hi) { ((Sim *)sim)->memory().set_error_range(lo, hi); }
uint32_t celosia_violation(void *sim, uint64_t *cycle) {
    *cycle = ((Sim *)sim)->memory().rules().violation_cycle();
    return ((Sim *)sim)->memory().rules().violation();
}
}
