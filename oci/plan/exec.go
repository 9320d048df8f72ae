package plan

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// Exec compiles the program of one more process in the container that was made
// from s. It joins all namespaces of the container's init at once, by its pidfd,
// so that it ends up in those of exactly one process.
func Exec(s *specs.Spec, process *specs.Process, host Host, cfg Config) (*Program, error) {
	own := *s
	own.Process = process
	own.Mounts = nil
	b := newBuilder(&own, &host, &cfg, 96)
	var cpus specs.CPUAffinity
	lastCPUs := b.allCPUs
	if a := process.ExecCPUAffinity; a != nil && *a != cpus {
		cpus = *a
		lastCPUs = func() error { return b.affinity("final", cpus.Final) }
	}
	steps := []func() error{
		func() error { return b.affinity("initial", cpus.Initial) },
		b.joinCgroup,
		lastCPUs,
		b.readNamespaces,
		func() error {
			if s.Process != nil {
				b.sealFromWatchers(s.Process.Capabilities, process.Capabilities)
			}
			return nil
		},
		b.joinAll,
		b.execSession,
		b.execTerminal,
		b.process,
		func() error { b.exec(); return nil },
	}
	if err := b.run(steps); err != nil {
		return nil, err
	}
	return &b.Program, nil
}

// joinAll joins the namespaces that init does not share with the host. A PID
// namespace is entered by the fork.
func (b *builder) joinAll() error {
	b.at("linux.namespaces", "of the container's init")
	pidfd := b.named(InPidfd)
	var flags uint64
	for _, n := range b.spec.Linux.Namespaces {
		for _, f := range nsFlags {
			if f.kind == n.Type {
				flags |= f.flag
			}
		}
	}
	// Whoever has CAP_SYS_PTRACE in the container can look into what is born in
	// its PID namespace, unless a user namespace is in between: at the host's root
	// directory and the memory of a process with all privileges. So all of the work
	// is done outside, and a sibling is born inside when nothing is left of that.
	// But a scheduler that no child inherits has to be set by who executes.
	b.bornLast = flags&abi.CloneNewPID != 0 && flags&abi.CloneNewUser == 0 && !ownScheduler(b.spec.Process.Scheduler)
	if flags&abi.CloneNewPID != 0 && !b.bornLast {
		b.PidNS = pidfd
		flags &^= abi.CloneNewPID
	}
	var root Reg
	if !b.ownNS {
		root = b.named(InRoot)
	}
	if flags == 0 {
		b.close(pidfd)
	} else {
		b.op(Op{Do: OpSetns, Dir: pidfd, A: flags})
		b.close(pidfd)
	}
	if root != 0 {
		b.at("root.path", "of the container's init")
		b.op(Op{Do: OpFchdir, Dir: root})
		b.op(Op{Do: OpChroot})
		b.close(root)
	}
	b.root = b.reg()
	b.op(Op{Do: OpOpen, Out: b.root, Path: "/", A: abi.OPath | FlagDirectory})
	return nil
}

func (b *builder) execSession() error {
	if b.inUser {
		b.OOM = b.spec.Process.OOMScoreAdj
		b.ns[specs.UserNamespace] = namespace{path: "joined"}
		b.becomeUserRoot()
	} else {
		b.oomScore()
	}
	if !b.bornLast {
		b.at("process", "session")
		b.op(Op{Do: OpSetsid})
	}
	b.sessionKeyring()
	return nil
}

// beBorn goes on in a process of the container's PID namespace, which has the
// container's root, identity and capabilities already, and no descriptor but
// those of its program, of the program's directory and of its way to the parent.
// (With a seccomp filter and without no_new_privs it has CAP_SYS_ADMIN until the
// filter is there.)
func (b *builder) beBorn() {
	b.at("linux.namespaces", "PID, of the container's init")
	b.close(b.named(InProc), b.root)
	b.op(Op{Do: OpFork})
	b.at("process", "session")
	b.op(Op{Do: OpSetsid})
	if b.console != 0 {
		b.at("process.terminal", "")
		b.op(Op{Do: OpCtty, Dir: b.console})
	}
}

// execTerminal allocates a terminal.
func (b *builder) execTerminal() error {
	if !b.spec.Process.Terminal {
		return nil
	}
	b.openDevpts()
	b.pty()
	return nil
}

// Pin compiles a program that makes the namespaces of s and keeps them for the
// parent to open: it ends in a wait.
func Pin(s *specs.Spec, host Host) (*Program, error) {
	b := newBuilder(s, &host, &Config{}, 64)
	steps := []func() error{
		b.readNamespaces,
		b.makeNamespaces,
		func() error {
			if b.inUser {
				b.becomeUserRoot()
			}
			return nil
		},
		b.cgroupNamespace,
		b.identity,
		b.sysctls,
		b.pin,
	}
	if b.err = b.run(steps); b.err != nil {
		return nil, b.err
	}
	return &b.Program, nil
}

// Rootfs compiles a program that mounts the container's rootfs at its directory in
// a new mount namespace, a copy of the host's, and keeps that for the parent; with
// mounts also the rest of what Create would mount there. It does so as the host's
// root, whatever namespaces the config has.
func Rootfs(s *specs.Spec, host Host, cfg Config, mounts bool) (*Program, error) {
	own, process, lx := *s, *s.Process, specs.Linux{}
	if s.Linux != nil {
		lx = *s.Linux
	}
	process.Terminal = false
	lx.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	lx.RootfsPropagation = "" // nothing of this may reach the host
	own.Process, own.Linux = &process, &lx
	b := newBuilder(&own, &host, &cfg, roomOfRootfs(s))
	steps := []func() error{
		b.readNamespaces,
		b.makeNamespaces,
	}
	if mounts {
		steps = append(steps, b.rootfs)
	} else {
		steps = append(steps, func() error {
			b.setattrPath("/", propagation{abi.MSSlave, true})
			return b.mountRoot()
		})
	}
	steps = append(steps, b.pin)
	if b.err = b.run(steps); b.err != nil {
		return nil, b.err
	}
	return &b.Program, nil
}

// pin ends a program in a wait for the parent, which then kills it.
func (b *builder) pin() error {
	b.at("linux.namespaces", "")
	b.op(Op{Do: OpSync, A: SyncPin})
	b.op(Op{Do: OpExit})
	return nil
}

// IDMapHolder is a program that is only there for its user namespace.
func IDMapHolder(uid, gid string) *Program {
	b := newBuilder(&specs.Spec{}, &Host{}, &Config{}, 2)
	b.at("uidMappings", "")
	b.CloneFlags = abi.CloneNewUser
	b.UIDMap, b.GIDMap = uid, gid
	b.op(Op{Do: OpSync, A: SyncUserNS})
	b.op(Op{Do: OpExit})
	return &b.Program
}

// Holder is a program that does nothing for as long as its parent lets it.
func Holder() *Program {
	b := newBuilder(&specs.Spec{}, &Host{}, &Config{}, 2)
	b.at("cgroupsPath", "")
	b.op(Op{Do: OpSync, A: SyncPin})
	b.op(Op{Do: OpExit})
	return &b.Program
}
