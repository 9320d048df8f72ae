package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"

	"github.com/strake-containers/strake/config"
	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/image/registry"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/certs"
	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/idle"
	"github.com/strake-containers/strake/internal/rootformat"
	"github.com/strake-containers/strake/internal/sdnotify"
	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/network/auto"
	"github.com/strake-containers/strake/network/bridge"
	"github.com/strake-containers/strake/network/cni"
	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/server"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
	"github.com/strake-containers/strake/server/cri"
	"github.com/strake-containers/strake/server/metrics"
	"github.com/strake-containers/strake/server/strake"
	"github.com/strake-containers/strake/server/stream"
	"github.com/strake-containers/strake/server/tracing"
)

// stopTimeout is how long calls under way may take to end once a signal has
// come. It is below systemd's 90 seconds and the kubelet's patience.
const stopTimeout = 20 * time.Second

// restAfter is how long nobody must have called before straked rests. A kubelet calls
// more often than that, at rest or not.
const restAfter = time.Minute

// daemon wires straked together, bottom up, serves until ctx ends, and takes it
// down in reverse. Pods are left as they are.
func daemon(ctx context.Context, c config.Config, file string, log *slog.Logger, r *reloader) (err error) {
	var closers cleanup.Stack // what was opened is closed, whether or not all went well
	defer closers.Run(&err)
	log.Info("straked starts", "version", version.Version, "root", c.Root, "state", c.State)

	// 1. The socket and the state first: their locks keep a second daemon off before anything is touched.
	socket, err := server.Listen(ctx, c.Address)
	if err != nil {
		return err
	}
	closers.Push("close socket", socket.Close)
	state, err := lockState(c.State) // the store has a lock of its own
	if err != nil {
		return err
	}
	closers.Push("unlock state", state.Close)
	if err := rootformat.Claim(c.Root); err != nil {
		return err
	}

	// 2. Images; opening is recovery.
	driver, err := rootfs.Open(c.Images.Driver, c.Root)
	if err != nil {
		return &config.Error{File: "configuration", Key: "images.driver", Msg: err.Error()}
	}
	images, err := image.Open(filepath.Join(c.Root, "images"), image.Options{
		Driver:         driver,
		MountDir:       filepath.Join(c.State, "mounts"),
		Registry:       registry.Config{ConfigPath: c.Registry.ConfigPath, RegistriesConf: c.Registry.RegistriesConf, UserAgent: "strake/" + version.Version},
		KeepLayerBlobs: c.Images.KeepLayerBlobs,
		Verity:         c.Images.Verity,
		Limits: layer.Limits{
			Bytes: c.Images.MaxLayerBytes, Entries: c.Images.MaxLayerEntries, Ratio: c.Images.MaxLayerRatio, Holes: c.Images.MaxLayerHoles,
		},
		Trust:  trust(c),
		Logger: log,
	})
	if err != nil {
		return err
	}
	closers.Push("close image store", images.Close)

	// 3. Networks: plugins where they are configured, else the bridge.
	br := bridge.New(bridge.Config{StateDir: filepath.Join(c.Root, "network", "bridge"), Bridge: c.Network.Bridge, Subnets: subnets(c)})
	closers.Push("close bridge", br.Close)
	plugins := cni.New(cni.Config{ConfDir: c.CNI.ConfDir, BinDirs: c.CNI.BinDirs, Networks: c.CNI.Networks, CacheDir: filepath.Join(c.Root, "network", "cni")})
	networks := auto.New(plugins, br)

	// 4. Pods; opening finds those that ran on, and undoes what was half made.
	settings, err := settingsOf(c)
	if err != nil {
		return err
	}
	pods, err := pod.Open(ctx, pod.Options{
		Root: c.Root, State: c.State, Images: images, Network: networks, Settings: settings, NRI: nodePlugins(c), Log: log,
		MaxLogBytes: c.ContainerLog.MaxBytes, LogDriver: c.ContainerLog.Config(), SELinux: pod.KernelSELinux(),
	})
	if err != nil {
		return err
	}
	closers.Push("close pods", func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		return pods.Close(ctx)
	})

	// 5. The fronts. The first server to fail ends them all, as the signal does.
	serving, ctx := errgroup.WithContext(ctx)
	secure, err := secureStreams(c.Stream.TLS, log)
	if err != nil {
		return err
	}
	streams, err := stream.New(c.Stream.Address, secure, cri.StreamRuntime(pods))
	if err != nil {
		return err
	}
	closers.Push("close streams", streams.Close)
	series := metrics.New(func() metrics.Counts {
		i := pods.Info()
		c := metrics.Counts{
			Pods: i.Pods, Containers: i.Containers, Running: i.Running, VerbsUnderWay: len(i.Stages),
			OOMKilled: i.OOMKilled, MonitorsReplaced: i.MonitorsReplaced,
		}
		for _, f := range pods.ForbiddenCalls() {
			c.Forbidden = append(c.Forbidden, metrics.Forbidden(f))
		}
		return c
	})
	if c.Metrics.Address != "" {
		scrapes, err := series.Listen(ctx, c.Metrics.Address)
		if err != nil {
			return err
		}
		serving.Go(scrapes.Serve)
		context.AfterFunc(ctx, func() { _ = scrapes.Close() }) // nothing of it is worth waiting for
	}
	var traced stats.Handler
	if c.Tracing.Endpoint != "" {
		traces, err := tracing.Open(ctx, traces(c), log)
		if err != nil {
			return err
		}
		closers.Push("close tracing", traces.Close)
		traced = traces.Handler()
	}
	rest := idle.After(restAfter)
	// Behind the first call, which would wait for the processor meanwhile.
	called := sync.OnceFunc(pods.KeepMonitorReady)
	rpc := server.NewGRPC(log, func(method string, code codes.Code, took time.Duration) {
		rest.Busy()
		series.Call(method, code, took)
		called()
	}, traced)
	cri.Register(rpc, cri.Options{
		Pods: pods, Images: images, Streams: streams,
		Handlers: func() ([]cri.Handler, string) { return handlers(r.running.Load()) },
		State:    c.State, Config: func() any { return r.running.Load() }, NetworkName: networks.Name, Log: log,
		SystemdCgroup: c.CgroupDriver == "systemd",
	}, ctx.Done())
	// Services that other fronts bring are registered here, on the same socket.
	background, endBackground := context.WithCancel(ctx)
	removed := strake.Register(background, rpc, strake.Deps{
		Pods: pods, Images: images,
		Root: c.Root, State: c.State, Address: c.Address, Config: file,
		CgroupMode: cgroupMode(), Storage: storage(driver, images), NetworkName: networks.Name,
		Runtimes: func() ([]*strakev1.Runtime, string) { return runtimeList(r.running.Load()) }, Log: log,
		Reload: func() (*strakev1.ReloadResponse, error) {
			did, err := r.reload()
			return &strakev1.ReloadResponse{Files: did.files, Changed: did.changed, Refused: did.refused}, err
		},
	})
	closers.Push("end background work", func() error {
		endBackground()
		<-removed
		return nil
	})

	r.apply = func(c config.Config) ([]string, error) {
		settings, err := settingsOf(c)
		if err != nil {
			return nil, err
		}
		kept, err := pods.Change(settings)
		if err == nil {
			images.Change(c.Registry.ConfigPath, c.Registry.RegistriesConf, trust(c))
			plugins.Change(c.CNI.ConfDir, c.CNI.BinDirs, c.CNI.Networks)
		}
		return kept, err
	}

	// 6. Serve until the signal.
	if c.GRPC.TCPAddress != "" {
		calls, err := server.ListenTLS(ctx, c.GRPC.TCPAddress, certs.Files(c.GRPC.TLS), log)
		if err != nil {
			return err
		}
		serving.Go(func() error { return rpc.Serve(calls) })
	}
	serving.Go(streams.Serve)
	serving.Go(func() error { return rpc.Serve(socket.Listener) })
	serving.Go(func() error { r.follow(ctx); return nil })
	serving.Go(func() error {
		switch err := socket.AwaitLoss(ctx); {
		case errors.Is(err, server.ErrLost): // open connections and the other fronts go on
			log.Error("straked has lost its socket", "error", err)
		case err != nil:
			log.Warn("a loss of the socket would not be noticed", "error", err)
		}
		return nil
	})
	serving.Go(func() error { return watchdog(ctx, log, func() { pods.Info() }) })
	if err := sdnotify.Send(sdnotify.Ready); err != nil {
		log.Warn("systemd was not told that straked is ready", "error", err)
	}
	log.Info("straked serves", "address", c.Address, "streams", streams.Address(), "network", networks.Name())
	<-ctx.Done()

	// 7. Stop serving.
	log.Info("straked stops; pods go on")
	if err := sdnotify.Send(sdnotify.Stopping); err != nil {
		log.Warn("systemd was not told that straked stops", "error", err)
	}
	ending, done := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer done()
	server.Stop(ending, rpc)
	return errors.Join(streams.Close(), serving.Wait())
}
