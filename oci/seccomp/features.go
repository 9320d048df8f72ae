package seccomp

import specs "github.com/opencontainers/runtime-spec/specs-go"

// What Compile takes, for `strake-runtime features`.

// Actions are the actions of a rule.
func Actions() []string {
	return []string{
		string(specs.ActKill), string(specs.ActKillProcess), string(specs.ActKillThread), string(specs.ActTrap),
		string(specs.ActErrno), string(specs.ActTrace), string(specs.ActAllow), string(specs.ActLog), string(specs.ActNotify),
	}
}

// Operators are the comparisons of an argument.
func Operators() []string {
	return []string{
		string(specs.OpNotEqual), string(specs.OpLessThan), string(specs.OpLessEqual), string(specs.OpEqualTo),
		string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpMaskedEqual),
	}
}

// Archs are the architectures whose system calls are known.
func Archs() []string {
	return []string{
		string(specs.ArchX86_64), string(specs.ArchX86), string(specs.ArchX32), string(specs.ArchAARCH64), string(specs.ArchARM),
	}
}

// Flags are the flags of the filter.
func Flags() []string {
	return []string{
		"SECCOMP_FILTER_FLAG_TSYNC", string(specs.LinuxSeccompFlagSpecAllow), string(specs.LinuxSeccompFlagLog),
		string(specs.LinuxSeccompFlagWaitKillableRecv),
	}
}
