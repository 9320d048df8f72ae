// Package monitor has benchmarks of what the monitor does all day beside conmon and
// crun: logs, and exec probes. See the README of test/bench.
package monitor
