# AMD Kria KV260, configuration duo (3e6536ee): from Verilog to bitstream.
#
#     vivado -mode batch -source build.tcl
#
# Written by `celosia vivado`; checked against a recording stub of Vivado's commands. It has not been run in Vivado.

set name celosia_duo
set jobs [expr {[info exists ::env(JOBS)] ? $::env(JOBS) : 4}]
set strategies {Performance_ExplorePostRoutePhysOpt Performance_ExtraTimingOpt Performance_NetDelay_low Performance_ExploreWithRemap}

proc fail {text} { puts stderr "ERROR: $text"; exit 1 }
proc newest {ip} {
  set found [lindex [get_ipdefs -quiet "xilinx.com:ip:$ip:*"] end]
  if {$found eq ""} { fail "Vivado must have the IP $ip, and has not" }
  return $found
}

# Project and board.
create_project -force $name build -part xck26-sfvc784-2LV-c
set board_part [lindex [get_board_parts -quiet "*:kv260_som:*" -latest_file_version] end]
if {$board_part eq ""} {
  fail "The board files of AMD Kria KV260 must be installed: xhub::install \[xhub::get_xitems kv260_som\]"
}
set_property board_part $board_part [current_project]
if {[catch {set_property board_connections {som240_1_connector xilinx.com:kv260_carrier:som240_1_connector:1.3} [current_project]} why]} {
  puts "WARNING: the carrier of the board files is another one ($why); the accelerator uses none of its pins"
}
add_files -norecurse {celosia_duo.v}
add_files -fileset constrs_1 -norecurse fan.xdc

# Processing system: one register port, 2 memory ports, one clock, one interrupt.
create_bd_design system
set ps [create_bd_cell -type ip -vlnv [newest zynq_ultra_ps_e] ps]
apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset 1} $ps
set_property -dict [list \
  CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__M_AXI_GP2 0 \
  CONFIG.PSU__USE__IRQ0 1 CONFIG.PSU__FPGA_PL0_ENABLE 1 CONFIG.PSU__FPGA_PL1_ENABLE 0 \
  CONFIG.PSU__CRL_APB__PL0_REF_CTRL__SRCSEL IOPLL \
  CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ 250 \
  CONFIG.PSU__USE__S_AXI_GP2 1 CONFIG.PSU__SAXIGP2__DATA_WIDTH 32 \
  CONFIG.PSU__USE__S_AXI_GP3 1 CONFIG.PSU__SAXIGP3__DATA_WIDTH 32 \
  CONFIG.PSU__TTC0__WAVEOUT__ENABLE 1 CONFIG.PSU__TTC0__WAVEOUT__IO EMIO \
] $ps

# The clock must be what was asked for, from the PLL as the boot firmware leaves it: under Linux only the dividers are written.
set actual_mhz [get_property CONFIG.PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ $ps]
if {abs($actual_mhz - 250) > 250 / 1000.0} {
  fail "pl_clk0 must be 250 MHz, not $actual_mhz: choose a whole fraction of the IO PLL"
}
set feedback [get_property CONFIG.PSU__CRL_APB__IOPLL_CTRL__FBDIV $ps]
if {$feedback != 60} {
  fail "IOPLL must keep the feedback divider 60 of the boot firmware, not $feedback: pl_clk0 would differ under Linux"
}

# Cells.
set accelerator [create_bd_cell -type module -reference celosia accelerator]
set reset [create_bd_cell -type ip -vlnv [newest proc_sys_reset] reset]
set control [create_bd_cell -type ip -vlnv [newest smartconnect] control]
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 2} $control
set interrupts [create_bd_cell -type ip -vlnv [newest axi_intc] interrupts]
set clocks {ps/pl_clk0 ps/maxihpm0_fpd_aclk reset/slowest_sync_clk control/aclk interrupts/s_axi_aclk accelerator/clk}
set resets {reset/peripheral_aresetn control/aresetn interrupts/s_axi_aresetn accelerator/rst_n}

# Registers.
connect_bd_intf_net [get_bd_intf_pins ps/M_AXI_HPM0_FPD] [get_bd_intf_pins control/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins control/M00_AXI] [get_bd_intf_pins accelerator/s_axil]
connect_bd_intf_net [get_bd_intf_pins control/M01_AXI] [get_bd_intf_pins interrupts/s_axi]

# Memory: port p of the accelerator at HP<p>, through a SmartConnect each.
set memory0 [create_bd_cell -type ip -vlnv [newest smartconnect] memory0]
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} $memory0
connect_bd_intf_net [get_bd_intf_pins accelerator/m_axi_0] [get_bd_intf_pins memory0/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins memory0/M00_AXI] [get_bd_intf_pins ps/S_AXI_HP0_FPD]
lappend clocks memory0/aclk ps/saxihp0_fpd_aclk
lappend resets memory0/aresetn
set memory1 [create_bd_cell -type ip -vlnv [newest smartconnect] memory1]
set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 1} $memory1
connect_bd_intf_net [get_bd_intf_pins accelerator/m_axi_1] [get_bd_intf_pins memory1/S00_AXI]
connect_bd_intf_net [get_bd_intf_pins memory1/M00_AXI] [get_bd_intf_pins ps/S_AXI_HP1_FPD]
lappend clocks memory1/aclk ps/saxihp1_fpd_aclk
lappend resets memory1/aresetn

# Clock, reset, interrupt, fan.
connect_bd_net {*}[get_bd_pins $clocks]
connect_bd_net [get_bd_pins ps/pl_resetn0] [get_bd_pins reset/ext_reset_in]
connect_bd_net {*}[get_bd_pins $resets]
connect_bd_net [get_bd_pins accelerator/irq] [get_bd_pins interrupts/intr]
connect_bd_net [get_bd_pins interrupts/irq] [get_bd_pins ps/pl_ps_irq0]
set fan [create_bd_cell -type ip -vlnv [newest xlslice] fan]
set_property -dict {CONFIG.DIN_WIDTH 3 CONFIG.DIN_FROM 2 CONFIG.DIN_TO 2} $fan
connect_bd_net [get_bd_pins ps/emio_ttc0_wave_o] [get_bd_pins fan/Din]
connect_bd_net [get_bd_pins fan/Dout] [create_bd_port -dir O -from 0 -to 0 fan_en_b]

# Addresses: registers for the processors; for the memory ports DDR and nothing else.
assign_bd_address -target_address_space [get_bd_addr_spaces ps/Data] -offset 0xA0000000 -range 64K \
  [get_bd_addr_segs accelerator/s_axil/reg0]
assign_bd_address -target_address_space [get_bd_addr_spaces ps/Data] -offset 0xA0010000 -range 64K \
  [get_bd_addr_segs interrupts/S_AXI/Reg]
assign_bd_address
foreach segment [get_bd_addr_segs -quiet ps/SAXIGP2/*] {
  if {![string match *DDR* $segment]} {
    exclude_bd_addr_seg -target_address_space [get_bd_addr_spaces accelerator/m_axi_0] $segment
  }
}
foreach segment [get_bd_addr_segs -quiet ps/SAXIGP3/*] {
  if {![string match *DDR* $segment]} {
    exclude_bd_addr_seg -target_address_space [get_bd_addr_spaces accelerator/m_axi_1] $segment
  }
}
validate_bd_design
save_bd_design
add_files -norecurse [make_wrapper -files [get_files system.bd] -top]
set_property top system_wrapper [current_fileset]
update_compile_order -fileset sources_1

# Synthesis once, then one strategy after the other until timing is met.
launch_runs synth_1 -jobs $jobs
wait_on_run synth_1
if {[get_property PROGRESS [get_runs synth_1]] ne "100%"} { fail "Synthesis must finish; see build/$name.runs/synth_1/runme.log" }
set met 0
foreach strategy $strategies {
  reset_run impl_1
  set_property strategy $strategy [get_runs impl_1]
  launch_runs impl_1 -to_step write_bitstream -jobs $jobs
  wait_on_run impl_1
  if {[get_property PROGRESS [get_runs impl_1]] ne "100%"} {
    puts "Strategy $strategy did not finish; see build/$name.runs/impl_1/runme.log"
    continue
  }
  set setup_ns [get_property STATS.WNS [get_runs impl_1]]
  set hold_ns [get_property STATS.WHS [get_runs impl_1]]
  puts "Strategy $strategy: worst slack $setup_ns ns (setup), $hold_ns ns (hold)"
  if {$setup_ns >= 0 && $hold_ns >= 0} { set met 1; break }
}
if {!$met} { fail "Timing must be met at 250 MHz, and no strategy did: try --clock-mhz with the next lower fraction" }

# What is kept.
open_run impl_1
report_timing_summary -file timing.rpt
report_utilization -hierarchical -file utilization.rpt
report_power -file power.rpt
file copy -force [lindex [glob build/$name.runs/impl_1/*_wrapper.bit] 0] $name.bit
file copy -force [lindex [glob build/$name.gen/sources_1/bd/system/hw_handoff/system.hwh \
                               build/$name.srcs/sources_1/bd/system/hw_handoff/system.hwh] 0] $name.hwh
write_cfgmem -force -format bin -interface SMAPx32 -disablebitswap -loadbit "up 0x0 $name.bit" $name.bit.bin
write_hw_platform -fixed -include_bit -force -file platform.xsa
set result [open result.json w]
puts $result [subst -nocommands {{"strategy": "$strategy", "worst_setup_slack_ns": $setup_ns, "worst_hold_slack_ns": $hold_ns,
 "asked_clock_mhz": 250, "actual_clock_mhz": $actual_mhz, "board_part": "$board_part", "vivado": "[version -short]"}}]
close $result
puts "Built $name.bit with strategy $strategy"
