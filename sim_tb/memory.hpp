// The memory of the simulated board: AXI ports in front of one DDR4 controller, a cycle at a time. Knows no simulator.
//
//   port 0 -- queue --+                          +-- bank 0..3: the open row, when it may be read
//   port 1 -- queue --+-- entries -- scheduler --+-- data bus: reads, groups of writes, refresh
//   port 2 -- queue --+      ^          |
//   port 3 -- queue --+   in turn       +--> latency --> data queue of the port --> one beat a cycle, in order
//
// A burst is cut into pieces of at most 16 beats. Every time is kept in 1/1024 of a cycle of the ports' clock.
// What each part stands for, and where its numbers come from: docs/memory_model.md.

#pragma once

#include <cstdint>
#include <vector>

#include "axi_rules.hpp"

namespace celosia {

constexpr int kPieceBeats = 16;

struct Timing {
    uint32_t latency;            // cycles from the data bus to the port
    uint32_t outstanding;        // pieces of a port between the controller and the port's data queue
    uint32_t commands;           // pieces a port takes before it makes the next burst wait
    uint32_t burst_1024;         // 1/1024 cycles that 64 bytes occupy the data bus
    uint32_t row_bytes_log2;     // neighbouring bytes in one row of one bank
    uint32_t banks_log2;
    uint32_t row_miss_1024;      // 1/1024 cycles from the last read of one row to the first of another in the same bank
    uint32_t row_hits;           // pieces in a row before a waiting other row of that bank is opened
    uint32_t refresh_interval;   // cycles; 0: never
    uint32_t refresh_cycles;
    uint32_t read_to_write_1024, write_to_read_1024;
    uint32_t write_group;        // pieces gathered before they are written
    uint32_t write_wait;         // cycles after which fewer are written
    uint32_t entry[kMaxPorts];   // of the controller, by port
    uint32_t entry_run;          // pieces of a port before another port of its entry has its turn
    uint32_t entry_gap_1024[kMaxPorts];  // least distance between two pieces of an entry
    uint32_t stall_1024;         // stress: chance in 1,024 that a channel stalls in a cycle
    uint32_t random_latency;     // stress: up to so many more cycles
    uint64_t seed;
};

class Memory {
  public:
    // With size 0 there are no contents: every address is good and reads as zero.
    Memory(int n_ports, int port_bytes, uint64_t base, uint64_t size, const Timing &timing)
        : n_ports_(n_ports), port_bytes_(port_bytes), base_(base), bytes_(size), timing_(timing), rng_(timing.seed * 2 + 1),
          rules_(port_bytes) {
        for (auto &row : open_row_) row = ~0ull;
        next_refresh_ = timing.refresh_interval;
        offer();
    }

    uint8_t *bytes() { return bytes_.data(); }
    const PortOut &out(int port) const { return ports_[port].out; }
    uint64_t now() const { return now_; }
    void set_dead(bool dead) { dead_ = dead; offer(); }
    void set_error_range(uint64_t lo, uint64_t hi) { error_lo_ = lo; error_hi_ = hi; }
    const AxiRules &rules() const { return rules_; }

    // One rising edge: `in` as it was with the present `out`.
    void clock(const PortIn *in) {
        for (int p = 0; p < n_ports_; p++) {
            rules_.check(now_, p, in[p], ports_[p].out);
            read_side(ports_[p], in[p]);
            write_side(p, in[p]);
        }
        if (!dead_) schedule();
        now_++;
        if (timing_.stall_1024)
            for (int p = 0; p < n_ports_; p++) {
                hold_[p] = 0;
                for (int i = 0; i < 5; i++) hold_[p] |= unsigned((random() & 1023) < timing_.stall_1024) << i;
            }
        offer();
    }

  private:
    static constexpr unsigned kRing = 64;

    struct Piece {
        uint64_t addr, ready_at;
        uint8_t beats, id;
        bool last;               // of its burst
    };
    struct Answer {
        uint64_t at;
        bool error;
    };
    struct WritePiece {
        uint64_t addr, since;
        uint32_t bytes;
        uint8_t port;
        bool last, error;
    };
    struct Port {
        PortOut out{};
        Piece pieces[kRing];
        unsigned head = 0, next = 0, tail = 0;     // delivered, scheduled and taken so far, modulo 2^32
        unsigned beat = 0;
        uint64_t aw_addr = 0, piece_addr = 0;
        unsigned w_left = 0, answers_due = 0;
        bool aw_busy = false, aw_error = false, r_offered = false, b_offered = false;
        Answer answers[kRing];
        unsigned answer_head = 0, answer_tail = 0;
    };

    uint64_t random() {  // splitmix64
        uint64_t z = (rng_ += 0x9E3779B97F4A7C15ull);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        return z ^ (z >> 31);
    }

    bool bad(uint64_t addr) const {
        if (bytes_.empty()) return false;
        if (addr < base_ || addr + port_bytes_ > base_ + bytes_.size()) return true;
        return addr < error_hi_ && addr + port_bytes_ > error_lo_;
    }

    // What the master sees before the next edge.
    void offer() {
        static const uint8_t zeros[kMaxPortBytes] = {};
        for (int p = 0; p < n_ports_; p++) {
            Port &port = ports_[p];
            PortOut &out = port.out;
            const unsigned hold = hold_[p];
            out.arready = port.tail - port.head < timing_.commands && !(hold & 1);
            const Piece &piece = port.pieces[port.head % kRing];
            out.rvalid = port.head != port.next && now_ >= piece.ready_at && !dead_ && (port.r_offered || !(hold & 2));
            port.r_offered = out.rvalid;
            if (out.rvalid) {
                uint64_t addr = piece.addr + uint64_t(port.beat) * port_bytes_;
                bool error = bad(addr);
                out.rdata = error || bytes_.empty() ? zeros : &bytes_[addr - base_];
                out.rresp = error ? 2 : 0;
                out.rid = piece.id;
                out.rlast = piece.last && port.beat + 1 == piece.beats;
            }
            out.awready = !port.aw_busy && port.answers_due < kRing / 2 && writes_tail_ - writes_head_ < kRing && !dead_ && !(hold & 4);
            out.wready = port.aw_busy && writes_tail_ - writes_head_ < kWrites - 2 * kMaxPorts && !dead_ && !(hold & 8);
            const Answer &answer = port.answers[port.answer_head % kRing];
            out.bvalid = port.answer_head != port.answer_tail && now_ >= answer.at && !dead_ && (port.b_offered || !(hold & 16));
            out.bresp = out.bvalid && answer.error ? 2 : 0;
            port.b_offered = out.bvalid;
        }
    }

    void read_side(Port &port, const PortIn &in) {
        const bool ar = in.arvalid && port.out.arready;
        if (port.out.rvalid && in.rready) {
            port.r_offered = false;
            if (++port.beat == port.pieces[port.head % kRing].beats) {
                port.beat = 0;
                port.head++;
            }
        }
        if (!ar) return;
        const unsigned beats = in.arlen + 1u;
        for (unsigned done = 0; done < beats; done += kPieceBeats) {
            unsigned n = beats - done < kPieceBeats ? beats - done : kPieceBeats;
            port.pieces[port.tail++ % kRing] = {in.araddr + uint64_t(done) * port_bytes_, 0, uint8_t(n), in.arid, done + n == beats};
        }
    }

    void write_side(int p, const PortIn &in) {
        Port &port = ports_[p];
        const bool aw = in.awvalid && port.out.awready;
        if (port.out.bvalid && in.bready) {
            port.answer_head++;
            port.answers_due--;
            port.b_offered = false;
        }
        if (in.wvalid && port.out.wready) {
            const uint64_t addr = port.aw_addr;
            if (bad(addr)) port.aw_error = true;
            else if (!bytes_.empty())
                for (int i = 0; i < port_bytes_; i++)
                    if (in.wstrb >> i & 1) bytes_[addr - base_ + i] = in.wdata[i];
            port.aw_addr += port_bytes_;
            port.w_left--;
            const bool last = port.w_left == 0;
            const uint32_t bytes = port.aw_addr - port.piece_addr;
            if (in.wlast != last) rules_.violate(now_, AxiRules::kWrongLast, AxiRules::kW, p);
            if (last || bytes == uint32_t(kPieceBeats * port_bytes_)) {
                writes_[writes_tail_++ % kWrites] = {port.piece_addr, now_, bytes, uint8_t(p), last, port.aw_error};
                port.piece_addr = port.aw_addr;
            }
            if (last) port.aw_busy = false;
        }
        if (aw) {
            port.aw_busy = true;
            port.aw_error = false;
            port.aw_addr = port.piece_addr = in.awaddr;
            port.w_left = in.awlen + 1u;
            port.answers_due++;
        }
    }

    // Give the data bus to the next piece whenever it is free within this cycle.
    void schedule() {
        const uint64_t end = (now_ + 1) * 1024;
        while (bus_free_ < end) {
            if (bus_free_ < now_ * 1024) bus_free_ = now_ * 1024;
            if (timing_.refresh_interval && now_ >= next_refresh_) {
                next_refresh_ += timing_.refresh_interval;
                bus_free_ += uint64_t(timing_.refresh_cycles) * 1024;
                for (auto &row : open_row_) row = ~0ull;
                for (auto &ready : bank_ready_) ready = 0;
                continue;
            }
            const unsigned n_writes = writes_tail_ - writes_head_;
            const bool reads = any_waiting();
            if (!n_writes && !reads) return;
            if (n_writes && (n_writes >= timing_.write_group || now_ - writes_[writes_head_ % kWrites].since >= timing_.write_wait)) {
                write_group();
                continue;
            }
            if (reads && read_piece()) continue;
            if (n_writes && !reads) {
                write_group();
                continue;
            }
            bus_free_ = end;
        }
    }

    bool startable(const Port &port) const { return port.next != port.tail && port.next - port.head < timing_.outstanding; }
    bool any_waiting() const {
        for (int p = 0; p < n_ports_; p++)
            if (startable(ports_[p])) return true;
        return false;
    }
    uint64_t next_address(int p) const { return ports_[p].pieces[ports_[p].next % kRing].addr; }
    unsigned bank(uint64_t addr) const { return addr >> timing_.row_bytes_log2 & ((1u << timing_.banks_log2) - 1) & (kMaxBanks - 1); }
    uint64_t row(uint64_t addr) const { return addr >> (timing_.row_bytes_log2 + timing_.banks_log2); }

    void open(unsigned b, uint64_t row) {
        uint64_t from = bank_used_[b] > now_ * 1024 ? bank_used_[b] : now_ * 1024;
        bank_ready_[b] = open_row_[b] == ~0ull ? from + timing_.row_miss_1024 / 2 : from + timing_.row_miss_1024;
        open_row_[b] = row;
        hits_[b] = 0;
    }

    // The head of each entry: its ports take turns of some pieces, and what waits at the head holds up what is behind it.
    bool read_piece() {
        int heads[kMaxPorts];
        bool wanted[kMaxBanks] = {};  // a bank whose open row is still to be read
        for (unsigned e = 0; e < kMaxPorts; e++) {
            heads[e] = -1;
            for (int j = run_[e] < timing_.entry_run ? 0 : 1; j <= n_ports_ && heads[e] < 0; j++) {
                const int p = (last_port_[e] + j) % n_ports_;
                if (timing_.entry[p] == e && startable(ports_[p])) heads[e] = p;
            }
            if (heads[e] < 0) continue;
            const uint64_t addr = next_address(heads[e]);
            const unsigned b = bank(addr);
            if (open_row_[b] == row(addr) && hits_[b] < timing_.row_hits) wanted[b] = true;
        }
        int chosen = -1;
        for (unsigned i = 1; i <= kMaxPorts; i++) {
            const unsigned e = (last_entry_ + i) % kMaxPorts;
            if (heads[e] < 0) continue;
            const uint64_t addr = next_address(heads[e]);
            const unsigned b = bank(addr);
            if (timing_.row_miss_1024 && open_row_[b] != row(addr)) {
                if (wanted[b]) continue;
                open(b, row(addr));
                wanted[b] = true;
            }
            if (chosen < 0 && bank_ready_[b] <= bus_free_ && entry_free_[e] <= bus_free_) chosen = heads[e];
        }
        if (chosen < 0) return false;
        Port &port = ports_[chosen];
        Piece &piece = port.pieces[port.next++ % kRing];
        const unsigned e = timing_.entry[chosen], b = bank(piece.addr);
        if (writing_) bus_free_ += timing_.write_to_read_1024;
        writing_ = false;
        piece.ready_at = bus_free_ / 1024 + timing_.latency;
        if (timing_.random_latency) piece.ready_at += random() % timing_.random_latency;
        entry_free_[e] = bus_free_ + timing_.entry_gap_1024[e];
        bus_free_ += occupied(piece.beats * port_bytes_);
        bank_used_[b] = bus_free_;
        hits_[b]++;
        last_entry_ = e;
        run_[e] = last_port_[e] == chosen ? run_[e] + 1 : 1;
        last_port_[e] = chosen;
        return true;
    }

    void write_group() {
        if (!writing_) bus_free_ += timing_.read_to_write_1024;
        writing_ = true;
        for (unsigned n = 0; n < timing_.write_group && writes_head_ != writes_tail_; n++) {
            const WritePiece &piece = writes_[writes_head_++ % kWrites];
            const unsigned b = bank(piece.addr);
            if (timing_.row_miss_1024) {
                if (open_row_[b] != row(piece.addr)) open(b, row(piece.addr));
                if (bus_free_ < bank_ready_[b]) bus_free_ = bank_ready_[b];
            }
            bus_free_ += occupied(piece.bytes);
            bank_used_[b] = bus_free_;
            hits_[b] = timing_.row_hits;  // a row of results is not worth keeping open
            Port &port = ports_[piece.port];
            if (piece.last) port.answers[port.answer_tail++ % kRing] = {bus_free_ / 1024 + timing_.latency / 2, piece.error};
        }
    }

    uint64_t occupied(uint32_t bytes) const { return uint64_t((bytes + 63) / 64) * timing_.burst_1024; }

    static constexpr unsigned kMaxBanks = 16, kWrites = 128;
    int n_ports_, port_bytes_;
    uint64_t base_;
    std::vector<uint8_t> bytes_;
    Timing timing_;
    uint64_t rng_;
    Port ports_[kMaxPorts];
    WritePiece writes_[kWrites];
    unsigned writes_head_ = 0, writes_tail_ = 0;
    uint64_t open_row_[kMaxBanks], bank_ready_[kMaxBanks] = {}, bank_used_[kMaxBanks] = {};
    unsigned hits_[kMaxBanks] = {};
    uint64_t entry_free_[kMaxPorts] = {};
    unsigned last_entry_ = 0;
    int last_port_[kMaxPorts] = {};
    unsigned run_[kMaxPorts] = {};
    unsigned hold_[kMaxPorts] = {};
    bool writing_ = false, dead_ = false;
    uint64_t error_lo_ = 0, error_hi_ = 0;
    uint64_t now_ = 0, bus_free_ = 0, next_refresh_ = 0;
    AxiRules rules_;
};

}  // namespace celosia
