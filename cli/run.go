package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/cli/stream"
	"github.com/strake-containers/strake/internal/logdriver"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// removeTimeout bounds what run still does when it has been told to end.
const removeTimeout = 30 * time.Second

func (a *app) runCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND [ARG...]]",
		Short: "Run a command in a new container",
		Long: `Run a command in a new container, in a pod of its own.

Without -d strake waits for it, shows its output and ends with its exit code, or
with 125 if strake or straked failed, 126 if the command cannot be run, 127 if it
does not exist. Signals that strake gets go to the container. With -it, Ctrl-P
Ctrl-Q leaves it running.`,
		Example: `  strake run -it --rm docker.io/library/debian bash
  strake run -d --name web -p 8080:80 -v ./site:/usr/share/nginx/html:ro nginx`,
		Args:              needs(1, "an image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().SetInterspersed(false) // the flags after IMAGE are the command's
	o.flags(cmd)
	for flag, values := range map[string][]string{"network": {"default", "host", "none"}, "pull": {"missing", "always", "never"}, "log-driver": logdriver.Names} {
		// It fails for a flag that is not there, and these are.
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	run := a.connect(func(ctx context.Context, c *client, args []string) error {
		return a.run(ctx, c, &o, args[0], args[1:])
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.hasEntrypoint = cmd.Flags().Changed("entrypoint")
		err := o.check()
		if err == nil {
			err = run(cmd, args)
		}
		return processError(err)
	}
	return cmd
}

// run makes a pod of one container and, unless it is to be in the background,
// stays until it ends. If a step fails, what was made is removed again.
func (a *app) run(ctx context.Context, c *client, o *runOptions, image string, args []string) (err error) {
	// 1. What can be refused without making anything.
	if o.tty {
		if err := a.checkTerminal(o.interactive); err != nil {
			return err
		}
	}
	name := o.name
	if name == "" {
		name = randomName()
	}
	nonce := rand.Text()
	pod, err := o.podConfig(name, nonce)
	if err != nil {
		return err
	}
	config, err := o.containerConfig(pod, image, args)
	if err != nil {
		return err
	}

	// 2. The image. From here on a signal undoes what was made.
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	if err := a.ensureImage(ctx, c, image, o.pull); err != nil {
		return cause(ctx, err)
	}

	// 3. The pod, under a name that nobody has. Requests that make something are
	// not interrupted: they take milliseconds, and then what they made is known.
	// Should strake be killed, straked removes a pod in which nothing runs yet.
	making := context.WithoutCancel(ctx)
	release, err := c.hold(making, nonce)
	defer release()
	if err != nil {
		return err
	}
	podID, err := reserve(making, c, pod, nonce, o.name == "")
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if keep {
			return
		}
		ctx, cancel := context.WithTimeout(making, removeTimeout)
		defer cancel()
		if removeErr := c.removePod(ctx, podID); removeErr != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %s", pod.Metadata.Name, message(removeErr)))
		}
	}()

	// 4. The container.
	config.Metadata.Name = pod.Metadata.Name
	created, err := c.pods.CreateContainer(making, &cri.CreateContainerRequest{PodSandboxId: podID, Config: config, SandboxConfig: pod})
	if err != nil {
		return err
	}
	id := created.ContainerId

	// 5. Its life.
	if o.detach {
		if err := cause(ctx, c.start(ctx, id)); err != nil {
			return err
		}
		keep = true
		_, err = fmt.Fprintln(a.stdout, id)
		return err
	}
	s := session{app: a, client: c, signals: signals, id: id, tty: o.tty, interactive: o.interactive}
	code, err := s.run(ctx)
	switch {
	case errors.Is(err, stream.ErrDetached):
		keep = true // with --rm, straked removes it at its end
		return a.detached()
	case s.running:
		keep = !o.rm
	}
	if err != nil {
		return err
	}
	return exitWith(code)
}

// maxNames bounds the search for a random name that is free.
const maxNames = 20

// reserve makes the pod. A pod of this name that is there already answers in
// our pod's place: the request is the same to straked, and the nonce is not.
func reserve(ctx context.Context, c *client, pod *cri.PodSandboxConfig, nonce string, random bool) (id string, err error) {
	for range maxNames {
		made, err := c.pods.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: pod})
		if err != nil && status.Code(err) != codes.AlreadyExists {
			return "", err
		}
		if err == nil {
			is, err := c.pods.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: made.PodSandboxId})
			if err != nil {
				return "", err
			}
			if is.Status.Annotations[strakev1.Owner] == nonce {
				return made.PodSandboxId, nil
			}
		}
		if !random {
			return "", fmt.Errorf("the name %s is taken: remove its container (strake rm -f %s), or choose another", pod.Metadata.Name, pod.Metadata.Name)
		}
		pod.Metadata.Name = randomName()
		if pod.Hostname != "" {
			pod.Hostname = pod.Metadata.Name
		}
	}
	return "", fmt.Errorf("no free name found: give one with --name")
}

// hold is the ownership of a pod: straked removes it neither before its container
// is started nor, with --rm, before its output has been read and its exit code is
// known, until release or until strake dies. A restart of straked does not end it.
func (c *client) hold(ctx context.Context, owner string) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	first := make(chan error, 1)
	tell := func(err error) {
		select {
		case first <- err:
		default: // only the first is waited for
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			stream, err := c.strake.Hold(ctx, &strakev1.HoldRequest{Owner: owner}, grpc.WaitForReady(true))
			for err == nil {
				if _, err = stream.Recv(); err == nil {
					tell(nil)
				}
			}
			if status.Code(err) != codes.Unavailable || !pause(ctx) {
				tell(err)
				return
			}
		}
	}()
	return func() { cancel(); <-ended }, <-first
}

// start starts a container that was just made, whatever becomes of ctx meanwhile. If
// straked goes away in the middle, the next one, for which ctx says how long to wait,
// knows whether it was started.
func (c *client) start(ctx context.Context, id string) error {
	request := &cri.StartContainerRequest{ContainerId: id}
	_, err := c.pods.StartContainer(context.WithoutCancel(ctx), request)
	for status.Code(err) == codes.Unavailable && pause(ctx) {
		is, statusErr := c.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id}, grpc.WaitForReady(true))
		switch {
		case statusErr != nil:
			err = statusErr
		case is.Status.State != cri.ContainerState_CONTAINER_CREATED:
			return nil
		default:
			_, err = c.pods.StartContainer(context.WithoutCancel(ctx), request)
		}
	}
	return err
}

// removePod stops and removes a pod; one that is not there is no error in CRI.
func (c *client) removePod(ctx context.Context, id string) error {
	if _, err := c.pods.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := c.pods.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

// exitWith is how strake ends with a process's exit code.
func exitWith(code int) error {
	if code == 0 {
		return nil
	}
	return &exitError{code: code}
}
