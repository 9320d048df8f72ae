package cgroup

// OOMWatch is a descriptor that becomes readable when the cgroup may have met an OOM kill.
type OOMWatch struct{}

func (c *Cgroup) WatchOOM() (*OOMWatch, error) { return nil, ErrUnsupported }
func (w *OOMWatch) FD() int                    { return -1 }
func (w *OOMWatch) Killed() (bool, error)      { return false, ErrUnsupported }
func (w *OOMWatch) Close() error               { return nil }
