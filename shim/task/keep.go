package task

import (
	"net"
	"os"
	"strings"
	"sync"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/shim/wire"
)

// keeper has straked keep what nobody could open again if this process were
// killed, the masters of terminals, seccomp listeners and pods' /dev/shm, and hands out
// those that an earlier monitor had.
// See wire.KeepSocket. Its mu is a leaf.
type keeper struct {
	mu        sync.Mutex
	conn      *net.UnixConn       // of straked, if that is there
	held      map[string]*os.File // duplicates of what is to be kept
	inherited map[string]*os.File
}

func newKeeper() *keeper {
	return &keeper{held: map[string]*os.File{}, inherited: map[string]*os.File{}}
}

// serve accepts one straked after the other, until the listener is closed.
func (k *keeper) serve(l *net.UnixListener) {
	for {
		conn, err := wire.Accept(l.AcceptUnix)
		if err != nil {
			return
		}
		go k.talk(conn)
	}
}

// talk takes what straked has kept, then tells it what there is.
func (k *keeper) talk(conn *net.UnixConn) {
	defer func() {
		k.mu.Lock()
		if k.conn == conn {
			k.conn = nil
		}
		k.mu.Unlock()
		_ = conn.Close() // whatever was kept stays so
	}()
	for {
		kind, name, f, err := wire.ReceiveKept(conn)
		if err != nil {
			return
		}
		k.mu.Lock()
		switch {
		case kind == wire.KeepFile && k.held[name] == nil && k.inherited[name] == nil:
			k.inherited[name] = f
		case f != nil:
			_ = f.Close() // we have it
		case kind == wire.KeepEnd:
			err = wire.SendKept(conn, wire.KeepEnd, "", nil)
			for name, f := range k.held {
				if err == nil {
					err = wire.SendKept(conn, wire.KeepFile, name, f)
				}
			}
			k.conn = conn
		}
		k.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// keep has f kept under a name. The caller keeps f, too.
func (k *keeper) keep(name string, f *os.File) error {
	dup, err := sys.Dup(f)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[name] = dup
	if k.conn != nil {
		_ = wire.SendKept(k.conn, wire.KeepFile, name, dup) // a straked that has gone asks again
	}
	return nil
}

// drop lets go what was kept; a name that is not is no error.
func (k *keeper) drop(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.held[name]; f != nil {
		delete(k.held, name)
		_ = f.Close() // a duplicate
		if k.conn != nil {
			_ = wire.SendKept(k.conn, wire.KeepDrop, name, nil) // likewise
		}
	}
}

// take returns what an earlier monitor had kept under a name, or nil.
func (k *keeper) take(name string) *os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	f := k.inherited[name]
	delete(k.inherited, name)
	return f
}

// takeAll returns all that an earlier monitor had kept under names that begin so.
func (k *keeper) takeAll(prefix string) map[string]*os.File {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[string]*os.File{}
	for name, f := range k.inherited {
		if strings.HasPrefix(name, prefix) {
			all[name] = f
			delete(k.inherited, name)
		}
	}
	return all
}

// keepName is the name of the pod's /dev/shm with the keeper.
func (b *sandbox) keepName() string { return b.id + "/" + string(shm) }

// keepName is a process's name with the keeper.
func (t *task) keepName(p *process) string {
	if p.execID == "" {
		return t.id
	}
	return t.id + "/" + p.execID
}
