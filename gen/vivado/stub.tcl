# A stand-in for Vivado's commands: notes what a build script asks for and answers as Vivado would where all goes well.
#
#     tclsh stub.tcl SCRIPT RECORD        in the script's folder
#
# Environment: STUB_IO_PLL_MHZ, STUB_IO_PLL_FEEDBACK (of the board), STUB_SETUP_NS (slack of every strategy).
# RECORD gets a line a fact, fields with tabs between; `celosia.gen.vivado.check` judges it.

lassign $argv script record
set out [open $record w]
proc note {args} { puts $::out [join $args "\t"] }

set asked_mhz 0
set build_name ""

# Options of a command as a dictionary (those in $flags take no value), and what is left under the key "".
proc options {arguments {flags {}}} {
  set found [dict create "" {}]
  while {[llength $arguments]} {
    set arguments [lassign $arguments word]
    if {[string index $word 0] ne "-"} { dict lappend found "" $word; continue }
    if {$word in $flags} { dict set found $word 1; continue }
    set arguments [lassign $arguments value]
    dict set found $word $value
  }
  return $found
}

proc create_project {args} {
  set given [options $args {-force}]
  set ::build_name [lindex [dict get $given ""] 0]
  note project $::build_name [dict get $given -part]
}
proc get_board_parts {args} { return "vendor:[lindex [split [lindex [dict get [options $args {-quiet -latest_file_version}] ""] 0] :] 1]:part0:9.9" }
proc current_project {} { return project }
proc current_fileset {} { return sources_1 }
proc get_files {name} { return $name }
proc get_runs {name} { return $name }
proc version {args} { return stub }
proc add_files {args} {
  set files [lindex [dict get [options $args {-norecurse}] ""] 0]
  foreach file $files {
    if {![string match *wrapper* $file] && ![file exists $file]} { error "There is no file $file" }
    note file $file
  }
}
proc get_ipdefs {args} {
  set name [lindex [split [lindex [dict get [options $args {-quiet}] ""] 0] :] 2]
  return [list "xilinx.com:ip:$name:9.9"]
}
proc create_bd_design {name} { note design $name }
proc create_bd_cell {args} {
  set given [options $args]
  set name [lindex [dict get $given ""] 0]
  note cell $name [dict get $given -type] [expr {[dict exists $given -vlnv] ? [dict get $given -vlnv] : [dict get $given -reference]}]
  return $name
}
proc apply_bd_automation {args} { note automation [lindex [dict get [options $args] ""] 0] }
proc set_property {args} {
  if {[lindex $args 0] eq "-dict"} {
    lassign $args _ pairs object
  } else {
    lassign $args key value object
    set pairs [list $key $value]
  }
  dict for {key value} $pairs {
    if {[string match *PL0_REF_CTRL__FREQMHZ $key]} { set ::asked_mhz $value }
    note property $object $key $value
  }
}
proc get_property {key object} {
  switch -glob $key {
    *ACT_FREQMHZ {
      if {$::env(STUB_IO_PLL_MHZ) == 0} { return $::asked_mhz }
      set divider [expr {max(1, round($::env(STUB_IO_PLL_MHZ) / double($::asked_mhz)))}]
      return [expr {$::env(STUB_IO_PLL_MHZ) / double($divider)}]
    }
    *IOPLL_CTRL__FBDIV { return $::env(STUB_IO_PLL_FEEDBACK) }
    PROGRESS { return "100%" }
    STATS.WNS { return $::env(STUB_SETUP_NS) }
    STATS.WHS { return 0.010 }
    default { error "The stub knows no property $key" }
  }
}
foreach kind {get_bd_pins get_bd_intf_pins get_bd_addr_spaces} { proc $kind {names} { return $names } }
proc create_bd_port {args} {
  set given [options $args]
  note port [dict get $given -dir] [dict get $given ""]
  return "/[dict get $given {}]"
}
proc connect_bd_intf_net {from to} { note interface $from $to }
proc connect_bd_net {args} { note net {*}$args }
proc get_bd_addr_segs {args} {
  set name [lindex [dict get [options $args {-quiet}] ""] 0]
  if {[regexp {^(.*SAXIGP)(\d+)/\*$} $name _ head number]} {
    set port HP[expr {$number - 2}]
    return [lmap segment {DDR_LOW DDR_HIGH QSPI LPS_OCM} { string cat $head $number / $port _ $segment }]
  }
  return $name
}
proc assign_bd_address {args} {
  if {![llength $args]} { note assign_rest; return }
  set given [options $args]
  note address [dict get $given -target_address_space] [dict get $given ""] [dict get $given -offset] [dict get $given -range]
}
proc exclude_bd_addr_seg {args} {
  set given [options $args]
  note exclude [dict get $given -target_address_space] [dict get $given ""]
}
proc validate_bd_design {} { note validate }
proc save_bd_design {} {}
proc make_wrapper {args} { return system_wrapper.v }
proc update_compile_order {args} {}
proc reset_run {name} {}
proc launch_runs {name args} {
  note launch $name
  if {$name ne "impl_1"} return
  foreach file [list build/$::build_name.runs/impl_1/system_wrapper.bit \
                     build/$::build_name.gen/sources_1/bd/system/hw_handoff/system.hwh] {
    file mkdir [file dirname $file]
    close [open $file w]
  }
}
proc wait_on_run {name} {}
proc open_run {name} {}
foreach report {report_timing_summary report_utilization report_power} {
  proc $report {args} { close [open [dict get [options $args {-hierarchical}] -file] w] }
}
proc write_cfgmem {args} { close [open [lindex [dict get [options $args {-force -disablebitswap}] ""] 0] w] }
proc write_hw_platform {args} { close [open [dict get [options $args {-fixed -include_bit -force}] -file] w] }

rename exit real_exit
proc exit {{code 0}} { note exit $code; close $::out; real_exit $code }
if {[catch {source $script} problem]} {
  puts stderr $problem
  exit 2
}
exit 0
