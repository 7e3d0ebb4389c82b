// The compiled accelerator with its memory: a C interface for celosia.sim_tb.device.
//
// Memory model. One DDR controller serves every port. A port accepts bursts, cuts them into pieces of at most 16 beats (as the AXI3
// side of the processing system does), keeps at most `outstanding` pieces in flight and delivers one beat a cycle in order. The
// controller takes one piece at a time from its three entries (port 0; ports 1 and 2, which share one; port 3), in turn; a piece
// occupies the data bus for bytes / bytes_per_cycle and its first beat is on the port `latency` cycles after its start. A change between reading and writing costs
// `turnaround` cycles. The `stress` preset replaces regular timing by random stalls on every channel.
//
// Compile with -DN_PORTS=... -DPORT_BYTES=....

#include <cstdint>
#include <cstring>
#include <deque>
#include <vector>

#include "Vtop.h"
#include "verilated.h"

double sc_time_stamp() { return 0; }

namespace {

constexpr int kPieceBeats = 16;

struct Timing {
    uint32_t latency;           // cycles from the start of a piece to its first beat
    uint32_t bytes_per_1024;    // bytes the data bus moves in 1,024 cycles
    uint32_t turnaround;        // cycles lost at a change between reading and writing
    uint32_t write_overhead;    // cycles a write piece costs besides its data
    uint32_t outstanding;       // pieces in flight a port
    uint32_t stall_1024;        // stress: chance in 1,024 that a channel stalls in a cycle
    uint32_t random_latency;    // stress: up to so many more cycles
    uint64_t seed;
};

struct ReadPins {
    CData *arvalid, *arready, *arid, *arlen, *rvalid, *rready, *rid, *rlast, *rresp;
    QData *araddr;
    void *rdata;
};

struct Piece {
    uint64_t addr;
    uint16_t beats;
    uint8_t id;
    bool last;         // last piece of its burst
    bool started;
    uint64_t ready_at; // cycle of the first beat
};

struct ReadPort {
    ReadPins pins;
    std::deque<Piece> pieces;
    unsigned beat = 0;
    uint64_t beats = 0;
};

struct WritePiece {
    uint64_t addr;
    uint32_t bytes;
    bool error;
};

class Sim {
  public:
    Sim(uint64_t base, uint64_t size, const Timing &timing) : base_(base), mem_(size), timing_(timing), rng_(timing.seed * 2 + 1) {
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

    uint8_t *memory() { return mem_.data(); }
    uint64_t cycles() const { return now_; }
    void set_dead(bool dead) { dead_ = dead; }
    void set_error_range(uint64_t lo, uint64_t hi) { error_lo_ = lo; error_hi_ = hi; }

    // Run until the interrupt or `limit` cycles; returns whether the interrupt came.
    bool run(uint64_t limit) {
        for (uint64_t i = 0; i < limit; i++) {
            cycle();
            if (top_->irq) return true;
        }
        return false;
    }

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
        ports_[p].pins = {&top_->m_axi_##p##_arvalid, &top_->m_axi_##p##_arready, &top_->m_axi_##p##_arid, &top_->m_axi_##p##_arlen, \
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

    uint64_t random() {  // splitmix64
        uint64_t z = (rng_ += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }
    bool stall() { return timing_.stall_1024 && (random() & 1023) < timing_.stall_1024; }

    bool bad(uint64_t addr, uint64_t bytes) const {
        if (addr < base_ || addr + bytes > base_ + mem_.size()) return true;
        return addr < error_hi_ && addr + bytes > error_lo_;
    }

    void cycle() { settle(); edge(); }

    // Drive the slave side from the state of the model and let combinational outputs settle.
    void settle() {
        for (auto &port : ports_) {
            *port.pins.arready = port.pieces.size() < timing_.outstanding && !(hold_ & 1);
            bool offer = false;
            if (!port.pieces.empty() && port.pieces.front().started && now_ >= port.pieces.front().ready_at && !dead_)
                offer = port.beat || r_sticky_[&port - ports_] || !(hold_ & 2);
            if (offer) {
                const Piece &piece = port.pieces.front();
                uint64_t addr = piece.addr + uint64_t(port.beat) * PORT_BYTES;
                bool error = bad(addr, PORT_BYTES);
                if (error) std::memset(port.pins.rdata, 0, PORT_BYTES);
                else std::memcpy(port.pins.rdata, &mem_[addr - base_], PORT_BYTES);
                *port.pins.rresp = error ? 2 : 0;
                *port.pins.rid = piece.id;
                *port.pins.rlast = piece.last && port.beat + 1 == piece.beats;
                r_sticky_[&port - ports_] = true;
            }
            *port.pins.rvalid = offer;
        }
        top_->m_axi_0_awready = !aw_busy_ && write_queue_.size() < timing_.outstanding && !dead_ && !(hold_ & 4);
        top_->m_axi_0_wready = aw_busy_ && !dead_ && !(hold_ & 8);
        bool b = !b_queue_.empty() && now_ >= b_queue_.front().first && !dead_ && (b_sticky_ || !(hold_ & 16));
        b_sticky_ = b;
        top_->m_axi_0_bvalid = b;
        top_->m_axi_0_bresp = b && b_queue_.front().second ? 2 : 0;
        top_->m_axi_0_bid = 0;
        top_->clk = 0;
        top_->eval();
    }

    void edge() {
        for (int p = 0; p < N_PORTS; p++) {
            ReadPort &port = ports_[p];
            ReadPins &pins = port.pins;
            bool r = *pins.rvalid && *pins.rready;
            if (*pins.arvalid && *pins.arready) {
                unsigned beats = *pins.arlen + 1u;
                for (unsigned done = 0; done < beats; done += kPieceBeats) {
                    unsigned n = beats - done < kPieceBeats ? beats - done : kPieceBeats;
                    port.pieces.push_back({*pins.araddr + uint64_t(done) * PORT_BYTES, uint16_t(n), *pins.arid, done + n == beats, false, 0});
                }
            }
            if (r) {
                r_sticky_[p] = false;
                port.beats++;
                if (++port.beat == port.pieces.front().beats) {
                    port.beat = 0;
                    port.pieces.pop_front();
                }
            }
        }
        write_side();
        schedule();
        top_->clk = 1;
        top_->eval();
        now_++;
        if (timing_.stall_1024) {
            hold_ = 0;
            for (int i = 0; i < 5; i++) hold_ |= unsigned(stall()) << i;
        }
    }

    void write_side() {
        if (top_->m_axi_0_bvalid && top_->m_axi_0_bready) { b_queue_.pop_front(); b_sticky_ = false; }
        if (top_->m_axi_0_wvalid && top_->m_axi_0_wready) {
            const uint8_t *data = (const uint8_t *)&top_->m_axi_0_wdata;
            if (bad(aw_addr_, PORT_BYTES)) aw_error_ = true;
            else
                for (int i = 0; i < PORT_BYTES; i++)
                    if (top_->m_axi_0_wstrb >> i & 1) mem_[aw_addr_ - base_ + i] = data[i];
            aw_addr_ += PORT_BYTES;
            if (top_->m_axi_0_wlast) {
                aw_busy_ = false;
                write_queue_.push_back({0, aw_bytes_, aw_error_});
            }
        }
        if (top_->m_axi_0_awvalid && top_->m_axi_0_awready) {
            aw_busy_ = true;
            aw_error_ = false;
            aw_addr_ = top_->m_axi_0_awaddr;
            aw_bytes_ = (top_->m_axi_0_awlen + 1u) * PORT_BYTES;
        }
    }

    // Give the data bus to the next piece when it is free.
    void schedule() {
        if (dead_) return;
        while (bus_free_1024_ <= now_ * 1024) {
            if (bus_free_1024_ + 1024 < now_ * 1024) bus_free_1024_ = now_ * 1024;
            // Writes wait until no read can be taken or eight have gathered, as a controller that groups them does.
            bool write = !write_queue_.empty() && (write_queue_.size() >= 8 || write_age_ >= 64);
            ReadPort *chosen = nullptr;
            if (!write) {
                static const int kEntryOf[4] = {0, 1, 1, 2};
                for (int i = 1; i <= 4 && !chosen; i++) {
                    int p = (last_port_ + i) % 4;
                    if (p >= N_PORTS || kEntryOf[p] < 0) continue;
                    if (startable(ports_[p])) { chosen = &ports_[p]; last_port_ = p; }
                }
                if (!chosen && !write_queue_.empty()) write = true;
            }
            if (write) {
                WritePiece piece = write_queue_.front();
                write_queue_.pop_front();
                write_age_ = 0;
                bus_free_1024_ += uint64_t(piece.bytes) * 1024 * 1024 / timing_.bytes_per_1024 + timing_.write_overhead * 1024;
                if (!writing_) bus_free_1024_ += timing_.turnaround * 1024;
                writing_ = true;
                b_queue_.push_back({now_ + timing_.latency / 2, piece.error});
            } else if (chosen) {
                Piece &piece = next_piece(*chosen);
                if (writing_) bus_free_1024_ += timing_.turnaround * 1024;
                writing_ = false;
                bus_free_1024_ += uint64_t(piece.beats) * PORT_BYTES * 1024 * 1024 / timing_.bytes_per_1024;
                piece.started = true;
                piece.ready_at = now_ + timing_.latency;
                if (timing_.random_latency) piece.ready_at += random() % timing_.random_latency;
            } else {
                bus_free_1024_ = now_ * 1024 + 1;
                break;
            }
        }
        if (!write_queue_.empty()) write_age_++;
    }

    bool startable(ReadPort &port) {
        unsigned flying = 0;
        for (Piece &piece : port.pieces) {
            if (!piece.started) return flying < timing_.outstanding;
            flying++;
        }
        return false;
    }
    Piece &next_piece(ReadPort &port) {
        for (Piece &piece : port.pieces)
            if (!piece.started) return piece;
        return port.pieces.front();
    }

    VerilatedContext context_;
    Vtop *top_;
    uint64_t base_;
    std::vector<uint8_t> mem_;
    Timing timing_;
    uint64_t rng_;
    ReadPort ports_[N_PORTS];
    bool r_sticky_[4] = {};
    std::deque<WritePiece> write_queue_;
    std::deque<std::pair<uint64_t, bool>> b_queue_;
    uint64_t aw_addr_ = 0;
    uint32_t aw_bytes_ = 0;
    bool aw_busy_ = false, aw_error_ = false, b_sticky_ = false, writing_ = false, dead_ = false;
    uint64_t error_lo_ = 0, error_hi_ = 0;
    uint64_t now_ = 0, bus_free_1024_ = 0;
    unsigned write_age_ = 0, hold_ = 0;
    int last_port_ = 3;
};

}  // namespace

extern "C" {
void *celosia_new(uint64_t base, uint64_t size, const Timing *timing) { return new Sim(base, size, *timing); }
void celosia_delete(void *sim) { delete (Sim *)sim; }
uint8_t *celosia_memory(void *sim) { return ((Sim *)sim)->memory(); }
uint64_t celosia_cycles(void *sim) { return ((Sim *)sim)->cycles(); }
int celosia_run(void *sim, uint64_t limit) { return ((Sim *)sim)->run(limit); }
int celosia_write32(void *sim, uint32_t addr, uint32_t value) { return ((Sim *)sim)->write32(addr, value); }
int celosia_read32(void *sim, uint32_t addr, uint32_t *value) { return ((Sim *)sim)->read32(addr, value); }
void celosia_set_dead(void *sim, int dead) { ((Sim *)sim)->set_dead(dead); }
void celosia_set_error_range(void *sim, uint64_t lo, uint64_t hi) { ((Sim *)sim)->set_error_range(lo, hi); }
}
