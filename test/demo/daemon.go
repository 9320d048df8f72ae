package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// demo is one telling of the story.
type demo struct {
	printer
	bin  string
	dir  string // everything that is written is below
	name string // of the bridge and of the cgroup that holds the pod

	subnet netip.Prefix
	log    *os.File // straked's
	daemon *exec.Cmd
	exited chan struct{}

	conn   *grpc.ClientConn
	pods   cri.RuntimeServiceClient
	images cri.ImageServiceClient
	strake strakev1.StrakeClient

	image       string
	config      *cri.PodSandboxConfig
	pod, ip     string
	web, client string
	netns       uint64 // inode of the pod's network namespace
}

func newDemo(ctx context.Context, bin string) (*demo, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(bin, "straked")); err != nil {
		return nil, fmt.Errorf("%w: run make build", err)
	}
	dir, err := os.MkdirTemp("", "strake-demo-")
	if err != nil {
		return nil, err
	}
	id := make([]byte, 2)
	_, _ = rand.Read(id) // never fails: crypto/rand's doc
	d := &demo{
		printer: newPrinter(func() error {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return nil
		}), bin: bin, dir: dir,
		name: fmt.Sprintf("strdemo%x", id),
		// One of a few thousand subnets that nobody else is likely to have.
		subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200 + id[0]%50, id[1], 0}), 24),
	}
	if d.log, err = os.Create(d.path("straked.log")); err != nil {
		return nil, err
	}
	config := fmt.Sprintf("root = %q\nstate = %q\naddress = %q\n\n[cni]\nconf_dir = %q\n\n[network]\nbridge = %q\nsubnets = [%q]\n",
		d.path("root"), d.path("run"), d.path("sock"), d.path("no-cni"), d.name, d.subnet)
	if err := os.WriteFile(d.path("config.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	d.conn, err = grpc.NewClient("unix://"+d.path("sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		// The daemon is there in milliseconds; the usual pause after a failure is a second.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, Multiplier: 1.5, MaxDelay: 20 * time.Millisecond}, MinConnectTimeout: 20 * time.Second}))
	if err != nil {
		return nil, err
	}
	d.pods, d.images = cri.NewRuntimeServiceClient(d.conn), cri.NewImageServiceClient(d.conn)
	d.strake = strakev1.NewStrakeClient(d.conn)
	return d, nil
}

func (d *demo) path(name string) string { return filepath.Join(d.dir, name) }

// startTimeout bounds the start of the daemon.
const startTimeout = 20 * time.Second

// start starts straked and waits for its first answer.
func (d *demo) start(ctx context.Context) error {
	d.daemon = exec.Command(filepath.Join(d.bin, "straked"), "--config", d.path("config.toml"))
	d.daemon.Stdout, d.daemon.Stderr = d.log, d.log
	d.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for us
	if err := d.daemon.Start(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	exited, daemon := make(chan struct{}), d.daemon
	go func() {
		_ = daemon.Wait() // that it has ended is what counts
		cancel()
		close(exited)
	}()
	d.exited = exited
	if _, err := d.pods.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		log, _ := os.ReadFile(d.log.Name()) // the error is worse news
		return fmt.Errorf("straked does not answer: %w\n%s", err, log)
	}
	return nil
}

// stop ends straked with SIGTERM, or at once.
func (d *demo) stop(sig os.Signal) error {
	if err := d.daemon.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-d.exited
	return nil
}

// abandon tidies up as far as possible after an error, and keeps the log.
func (d *demo) abandon() error {
	if d.daemon == nil {
		return os.RemoveAll(d.dir)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	select {
	case <-d.exited:
		if d.pod != "" { // it was killed on purpose
			err = d.start(ctx)
		}
	default:
	}
	if d.pod != "" && err == nil {
		err = d.removePods(ctx)
	}
	err = errors.Join(err, d.stop(os.Interrupt))
	err = errors.Join(err, d.removeHost(ctx))
	fmt.Fprintf(os.Stderr, "straked's log is %s\n", d.log.Name())
	return err
}

// removePods removes every pod there is.
func (d *demo) removePods(ctx context.Context) error {
	list, err := d.pods.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, p := range list.Items {
		_, stopErr := d.pods.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.Id})
		_, removeErr := d.pods.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.Id})
		err = errors.Join(err, stopErr, removeErr)
	}
	return err
}
