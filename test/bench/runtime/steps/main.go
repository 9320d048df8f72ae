// Command steps counts what a program executes in user mode, by function, and does not
// care how busy the machine is: it has the processor stop after each instruction.
//
//	steps [-n FUNCTIONS] PROGRAM [ARG...]
//
// It prints how many instructions the program's first thread and its others executed,
// and of the first how many pages and cache lines of the program's own code they come
// from, then the functions with the most. It counts the program's process and not its
// children. The functions' names take a program with symbols (no -s in its -ldflags);
// what is in no function of it (the vDSO, shared libraries) counts as "elsewhere".
//
// The scheduler of a Go program that is stopped so often takes its threads for stuck:
// what others execute is mostly its doing, and the first thread's work may move to one
// of them. A program with one thread has the same count in each run, nearly.
package main

import (
	"cmp"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
)

func main() {
	n := flag.Int("n", 30, "functions to show")
	flag.Parse()
	if flag.NArg() == 0 {
		fmt.Fprintln(os.Stderr, "usage: steps [-n FUNCTIONS] PROGRAM [ARG...]")
		os.Exit(2)
	}
	if err := show(*n, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "steps:", err)
		os.Exit(1)
	}
}

func show(n int, args []string) error {
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	functions, err := functionsOf(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	t := &trace{at: map[uint64]int{}, threads: map[int]bool{}}
	if err := t.run(path, args); err != nil {
		return err
	}

	byName := map[string]int{}
	pages, lines := map[uint64]bool{}, map[uint64]bool{}
	own := 0
	for address, count := range t.at {
		name := functions.name(address)
		if name == "" {
			continue
		}
		const page, line = 4096, 64
		pages[address/page], lines[address/line] = true, true
		byName[name] += count
		own += count
	}
	fmt.Printf("%d instructions of the first thread, %d elsewhere, on %d pages and %d lines; %d of others\n",
		own, t.first-own, len(pages), len(lines), t.others)
	names := slices.SortedFunc(maps.Keys(byName), func(a, b string) int { return cmp.Or(byName[b]-byName[a], cmp.Compare(a, b)) })
	for _, name := range names[:min(n, len(names))] {
		fmt.Printf("%9d %s\n", byName[name], name)
	}
	return nil
}

// trace is what one process executed.
type trace struct {
	at            map[uint64]int // how often which address, by the first thread
	first, others int
	threads       map[int]bool // those beside the first
}

// run runs the program step by step.
func (t *trace) run(path string, args []string) error {
	runtime.LockOSThread() // ptrace(2) is a thread's
	process, err := os.StartProcess(path, args, &os.ProcAttr{
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}, Sys: &syscall.SysProcAttr{Ptrace: true}})
	if err != nil {
		return err
	}
	pid := process.Pid
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return fmt.Errorf("wait for its execve: %w", err)
	}
	const exitKill = 1 << 20 // PTRACE_O_EXITKILL, linux/ptrace.h
	if err := syscall.PtraceSetOptions(pid, syscall.PTRACE_O_TRACECLONE|exitKill); err != nil {
		return fmt.Errorf("PTRACE_SETOPTIONS: %w", err)
	}
	if err := syscall.PtraceSingleStep(pid); err != nil {
		return fmt.Errorf("PTRACE_SINGLESTEP: %w", err)
	}
	for {
		thread, err := syscall.Wait4(-1, &status, syscall.WALL, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case !status.Stopped() && thread == pid:
			return nil
		case !status.Stopped():
			continue
		}
		if thread != pid && !t.threads[thread] {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, thread)); err != nil {
				_ = syscall.PtraceDetach(thread) // a process that was cloned like a thread; it may have been killed
				continue
			}
			t.threads[thread] = true
		}
		signal := status.StopSignal()
		if signal == syscall.SIGTRAP || signal == syscall.SIGSTOP { // a step, a new thread
			signal = 0
			var regs syscall.PtraceRegs
			if err := syscall.PtraceGetRegs(thread, &regs); err != nil {
				continue // it has been killed
			}
			if thread == pid {
				t.at[regs.PC()]++
				t.first++
			} else {
				t.others++
			}
		}
		// ESRCH: it has been killed.
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, syscall.PTRACE_SINGLESTEP, uintptr(thread), 0, uintptr(signal), 0, 0); errno != 0 && errno != syscall.ESRCH {
			return fmt.Errorf("PTRACE_SINGLESTEP: %w", errno)
		}
	}
}

// functions are a program's, by address.
type functions []elf.Symbol

func functionsOf(path string) (functions, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	symbols, err := f.Symbols()
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	list := functions(slices.DeleteFunc(symbols, func(s elf.Symbol) bool { return elf.ST_TYPE(s.Info) != elf.STT_FUNC }))
	slices.SortFunc(list, func(a, b elf.Symbol) int { return cmp.Compare(a.Value, b.Value) })
	return list, nil
}

// name is the function at an address, or "".
func (list functions) name(address uint64) string {
	i, found := slices.BinarySearchFunc(list, address, func(s elf.Symbol, address uint64) int { return cmp.Compare(s.Value, address) })
	if !found {
		i--
	}
	if i < 0 || address >= list[i].Value+max(list[i].Size, 1) {
		return ""
	}
	return list[i].Name
}
