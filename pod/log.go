package pod

import (
	"cmp"
	"os"
	"path/filepath"

	"github.com/strake-containers/strake/internal/logdriver"
)

// ownLog is the log of a container whose caller has no place for it.
const ownLog = "0.log"

// logOf says how a container's output is kept. Whoever names a place for it, as the
// kubelet does, gets the format of CRI there.
func (m *Manager) logOf(pod *PodConfig, config *ContainerConfig) (logdriver.Config, error) {
	placed := pod.LogDirectory != "" && config.LogPath != ""
	switch asked := config.Log; {
	case asked == nil && placed:
		return logdriver.Config{Driver: logdriver.K8sFile, MaxFiles: 1}, nil
	case asked == nil:
		return m.o.LogDriver, nil
	case placed:
		return logdriver.Config{}, errorf(ErrInvalid, "log driver %s: log_path %q has the format of CRI: leave one out", asked.Driver, config.LogPath)
	case asked.Driver == "" && len(asked.Options) == 0:
		return m.o.LogDriver, nil
	default:
		c, err := logdriver.Parse(cmp.Or(asked.Driver, m.o.LogDriver.Driver), asked.Options)
		if err != nil {
			return c, errorf(ErrInvalid, "%w", err)
		}
		return c, nil
	}
}

// prepareLog makes the directory of the container's log, notes where it is, and returns
// the URI by which its monitor writes it.
func (m *Manager) prepareLog(p *sandbox, c *container) (uri string, err error) {
	pod, r := &p.record.Config, &c.record
	log, err := m.logOf(pod, &r.Config)
	if err != nil {
		return "", err
	}
	r.LogDriver = log.Driver
	switch log.Driver {
	case logdriver.None:
		return logdriver.None + ":", nil
	case logdriver.Journald:
		return journalURI(r, log.Tag), nil
	}
	r.LogPath = filepath.Join(m.store.ContainerDir(p.id, c.id), ownLog)
	if pod.LogDirectory == "" || r.Config.LogPath == "" {
		if log.Driver == logdriver.K8sFile && log.MaxSize == 0 {
			return "cri://" + r.LogPath, nil
		}
		return log.FileURI(r.LogPath), nil
	}
	r.LogPath = filepath.Join(pod.LogDirectory, r.Config.LogPath)
	return "cri://" + r.LogPath, os.MkdirAll(filepath.Dir(r.LogPath), 0o755)
}

// journalURI is a container's journal: the fields are Docker's and conmon's.
func journalURI(r *containerRecord, tag string) string {
	short := r.ID[:12]
	tag = cmp.Or(tag, short)
	return logdriver.JournalURI(logdriver.JournalSocket, map[string]string{
		"CONTAINER_ID": short, "CONTAINER_ID_FULL": r.ID, "CONTAINER_NAME": r.Config.Name,
		"CONTAINER_TAG": tag, "SYSLOG_IDENTIFIER": tag, "IMAGE_NAME": r.ImageName,
	})
}
