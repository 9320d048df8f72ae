package seccomp

import (
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Run interprets the program as the kernel would for one system call, and returns
// its verdict (Ret…). It is for tests and for showing what a profile does. A
// program that runs over its end, which Compile never makes, kills the process.
func (p *Program) Run(nr, arch uint32, args [6]uint64) uint32 {
	v, _ := p.trace(nr, arch, args)
	return v
}

// Allows says whether the kernel of an architecture lets a system call pass, seen
// from its name and arguments.
func (p *Program) Allows(arch specs.Arch, name string, args [6]uint64) bool {
	a, ok := architectureOf(arch)
	call, known := lookup(name)
	if !ok || !known {
		return false
	}
	v := p.Run(uint32(call.nr[a.column]), a.audit, args)
	return v == RetAllow || v == RetLog
}

// trace also counts the instructions executed.
func (p *Program) trace(nr, arch uint32, args [6]uint64) (verdict uint32, steps int) {
	var a uint32
	for pc := 0; pc < len(p.Instructions); pc++ {
		steps++
		i := p.Instructions[pc]
		hit := false
		switch i.Code {
		case codeRet:
			return i.K, steps
		case codeLoad:
			a = word(i.K, nr, arch, args)
			continue
		case codeAnd:
			a &= i.K
			continue
		case codeJump:
			pc += int(i.K)
			continue
		case codeEqual:
			hit = a == i.K
		case codeGT:
			hit = a > i.K
		case codeGE:
			hit = a >= i.K
		default:
			return RetKillProcess, steps
		}
		if hit {
			pc += int(i.JT)
		} else {
			pc += int(i.JF)
		}
	}
	return RetKillProcess, steps
}

// word is one of struct seccomp_data; the instruction pointer reads as 0.
func word(offset, nr, arch uint32, args [6]uint64) uint32 {
	switch {
	case offset == offsetNr:
		return nr
	case offset == offsetArch:
		return arch
	case offset >= offsetArgs && offset < offsetArgs+8*6 && offset%4 == 0:
		arg := args[(offset-offsetArgs)/8]
		if offset%8 == 4 {
			return uint32(arg >> 32)
		}
		return uint32(arg)
	}
	return 0
}

// String renders an instruction as the kernel's bpf_asm writes it, with jumps
// relative to the next instruction.
func (i Instruction) String() string {
	switch i.Code {
	case codeLoad:
		return fmt.Sprintf("ld [%d]", i.K)
	case codeAnd:
		return fmt.Sprintf("and #%#x", i.K)
	case codeJump:
		return fmt.Sprintf("ja +%d", i.K)
	case codeRet:
		return fmt.Sprintf("ret #%#x", i.K)
	case codeEqual:
		return fmt.Sprintf("jeq #%#x, +%d, +%d", i.K, i.JT, i.JF)
	case codeGT:
		return fmt.Sprintf("jgt #%#x, +%d, +%d", i.K, i.JT, i.JF)
	case codeGE:
		return fmt.Sprintf("jge #%#x, +%d, +%d", i.K, i.JT, i.JF)
	}
	return fmt.Sprintf(".word %#x %#x %#x %#x", i.Code, i.JT, i.JF, i.K)
}
