package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// parsePort reads one -p: [IP:]HOST:CONTAINER[/tcp|udp|sctp], with an IPv6
// address in brackets. A port range is several -p.
func parsePort(s string) (*cri.PortMapping, error) {
	bad := func(why string) (*cri.PortMapping, error) {
		return nil, fmt.Errorf("-p %s: %s; write [IP:]HOST_PORT:CONTAINER_PORT[/tcp|udp|sctp]", s, why)
	}
	spec, proto, _ := strings.Cut(s, "/")
	number, ok := cri.Protocol_value[strings.ToUpper(proto)]
	if proto == "" {
		number, ok = int32(cri.Protocol_TCP), true
	}
	if !ok {
		return bad(fmt.Sprintf("no protocol %q", proto))
	}
	i := strings.LastIndexByte(spec, ':')
	if i < 0 {
		return bad("no host port")
	}
	container, err := portNumber(spec[i+1:])
	if err != nil {
		return bad("container port " + err.Error())
	}
	ip, hostPort := "", spec[:i]
	if j := strings.LastIndexByte(hostPort, ':'); j >= 0 {
		ip, hostPort = hostPort[:j], hostPort[j+1:]
		ip = strings.TrimSuffix(strings.TrimPrefix(ip, "["), "]")
		if _, err := netip.ParseAddr(ip); err != nil {
			return bad(fmt.Sprintf("%q is not an address", ip))
		}
	}
	host, err := portNumber(hostPort)
	if err != nil {
		return bad("host port " + err.Error())
	}
	return &cri.PortMapping{Protocol: cri.Protocol(number), ContainerPort: container, HostPort: host, HostIp: ip}, nil
}

func portNumber(s string) (int32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a number from 1 to 65535", s)
	}
	return int32(n), nil
}

// portText is a port mapping as ps shows it.
func portText(p *cri.PortMapping) string {
	ip := p.HostIp
	if ip == "" {
		ip = "0.0.0.0"
	}
	if strings.Contains(ip, ":") {
		ip = "[" + ip + "]"
	}
	return fmt.Sprintf("%s:%d->%d/%s", ip, p.HostPort, p.ContainerPort, strings.ToLower(p.Protocol.String()))
}

// parseVolume reads one -v: HOST:CONTAINER[:ro|rw]. A relative host path starts
// from the working directory. Unlike docker, strake does not create a missing
// host path: it is nearly always a typing error, and an empty directory in its
// place hides that.
func parseVolume(s string) (*cri.Mount, error) {
	bad := func(why string) (*cri.Mount, error) {
		return nil, fmt.Errorf("-v %s: %s; write HOST_PATH:CONTAINER_PATH[:ro]", s, why)
	}
	parts := strings.Split(s, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" {
		return bad("not two paths")
	}
	if !filepath.IsAbs(parts[1]) {
		return bad(fmt.Sprintf("the path in the container, %q, is not absolute", parts[1]))
	}
	readonly := false
	if len(parts) == 3 {
		switch parts[2] {
		case "ro":
			readonly = true
		case "rw":
		default:
			return bad(fmt.Sprintf("no option %q", parts[2]))
		}
	}
	host, err := filepath.Abs(parts[0])
	if err != nil {
		return bad(err.Error())
	}
	switch _, err := os.Stat(host); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("-v %s: %s does not exist: make it first (mkdir -p %s)", s, host, host)
	case err != nil:
		return nil, fmt.Errorf("-v %s: %w", s, err)
	}
	return &cri.Mount{HostPath: host, ContainerPath: filepath.Clean(parts[1]), Readonly: readonly}, nil
}

// parseBytes reads a size: a number with b, k, m or g (powers of 1024).
func parseBytes(s string) (int64, error) {
	shift := 0
	number := strings.ToLower(s)
	for suffix, by := range map[string]int{"b": 0, "k": 10, "m": 20, "g": 30} {
		if cut, ok := strings.CutSuffix(number, suffix); ok {
			number, shift = cut, by
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("%q is not a size; write a number with b, k, m or g, as in 512m", s)
	}
	return n << shift, nil
}

// cpuPeriod is the kernel's default bandwidth period in microseconds.
const cpuPeriod = 100_000

// parseCPUs reads a number of CPUs, as in 1.5, and gives the quota per cpuPeriod.
func parseCPUs(s string) (int64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || !(n >= 0.01 && n <= 1<<20) {
		return 0, fmt.Errorf("--cpus %q is not a number of CPUs of at least 0.01, as in 1.5", s)
	}
	return int64(math.Round(n * cpuPeriod)), nil
}

// checkWorkdir refuses a working directory that is relative: to what, nobody has said.
func checkWorkdir(dir string) error {
	if dir != "" && !filepath.IsAbs(dir) {
		return fmt.Errorf("-w %s: write an absolute path", dir)
	}
	return nil
}

// parseEnv reads one -e: NAME=VALUE, or NAME with the value that strake itself
// has. ok is false for a NAME that strake has not: it is left out.
func parseEnv(s string, lookup func(string) (string, bool)) (kv *cri.KeyValue, ok bool, err error) {
	name, value, given := strings.Cut(s, "=")
	if name == "" {
		return nil, false, fmt.Errorf("-e %s: no name; write NAME=VALUE or NAME", s)
	}
	if !given {
		if value, ok = lookup(name); !ok {
			return nil, false, nil
		}
	}
	return &cri.KeyValue{Key: name, Value: []byte(value)}, true, nil
}

// parseUser reads -u: UID[:GID] or NAME. CRI takes a group only with a number.
func parseUser(s string, to *cri.LinuxContainerSecurityContext) error {
	user, group, hasGroup := strings.Cut(s, ":")
	uid, err := parseID(user)
	if errors.Is(err, strconv.ErrRange) {
		return fmt.Errorf("-u %s: the number is too large for a user", s)
	}
	if err != nil {
		if hasGroup || user == "" {
			return fmt.Errorf("-u %s: CRI takes UID, UID:GID or NAME: write the group and its user as numbers", s)
		}
		to.RunAsUsername = user
		return nil
	}
	to.RunAsUser = &cri.Int64Value{Value: uid}
	if hasGroup {
		gid, err := parseID(group)
		if err != nil {
			return fmt.Errorf("-u %s: CRI takes the group as a number", s)
		}
		to.RunAsGroup = &cri.Int64Value{Value: gid}
	}
	return nil
}

// parseID reads a user or group number; the kernel's are 32 bits less one.
func parseID(s string) (int64, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err == nil && n == math.MaxUint32 {
		err = strconv.ErrRange
	}
	return int64(n), err
}
