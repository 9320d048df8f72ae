package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// dataChunk is what one message of an archive carries.
const dataChunk = 1 << 20

func (a *app) pushCommand() *cobra.Command {
	var quiet, repack bool
	cmd := &cobra.Command{
		Use:               "push [flags] IMAGE [NAME]",
		Short:             "Send an image to a registry, as NAME or as its own name",
		Args:              between(1, 2, "an image, and perhaps the name to push it as"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the digest")
	cmd.Flags().BoolVar(&repack, "repack", false, "pack layers anew that were not kept packed; the manifest's digest changes")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		to := args[len(args)-1]
		auth, err := findAuth(ctx, to, os.Getenv)
		if err != nil {
			return err
		}
		stream, err := c.strake.Push(ctx, &strakev1.PushRequest{Reference: args[0], To: to, Auth: auth, Repack: repack})
		if err != nil {
			return err
		}
		var show io.Writer = a.stderr
		if quiet {
			show = io.Discard
		}
		p := newProgress(show, a.width(show))
		defer p.finish()
		for {
			news, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return fmt.Errorf("push %s: straked ended without a result", to)
			}
			if status.Code(err) == codes.Unauthenticated && auth == nil {
				return fmt.Errorf("%w; there are no credentials for it in %s", err, strings.Join(authFiles(os.Getenv), ", "))
			}
			if err != nil {
				return err
			}
			if d := news.GetDigest(); d != "" {
				fmt.Fprintln(a.stdout, d)
				return nil
			}
			p.update(news.GetProgress())
		}
	})
	return cmd
}

func (a *app) tagCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME...",
		Short:             "Give an image more names",
		Args:              needs(2, "an image and a name"),
		ValidArgsFunction: a.completeImages,
		RunE: a.connect(func(ctx context.Context, c *client, args []string) error {
			for _, to := range args[1:] {
				if _, err := c.strake.TagImage(ctx, &strakev1.TagImageRequest{Reference: args[0], To: to}); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}

func (a *app) untagCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "untag NAME...",
		Short:             "Take names away and leave the images",
		Args:              needs(1, "a name"),
		ValidArgsFunction: a.completeImages,
		RunE: a.connect(func(ctx context.Context, c *client, args []string) error {
			_, err := c.strake.UntagImage(ctx, &strakev1.UntagImageRequest{Names: args})
			return err
		}),
	}
}

func (a *app) historyCommand() *cobra.Command {
	var full, quiet bool
	cmd := &cobra.Command{
		Use:               "history [flags] IMAGE",
		Short:             "Show how an image was made, newest step first",
		Args:              only("image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().BoolVar(&full, "no-trunc", false, "whole ids and commands")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only the ids")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		r, err := c.strake.InspectImage(ctx, &strakev1.InspectImageRequest{Reference: args[0]})
		if err != nil {
			return err
		}
		rows, err := historyRows(r, time.Now(), full)
		if err != nil {
			return fmt.Errorf("%s: its configuration: %w", args[0], err)
		}
		if quiet {
			for _, row := range rows {
				fmt.Fprintln(a.stdout, row[0])
			}
			return nil
		}
		t := a.table()
		fmt.Fprintln(t, "IMAGE\tCREATED\tCREATED BY\tSIZE\tCOMMENT")
		for _, row := range rows {
			fmt.Fprintln(t, strings.Join(row[:], "\t"))
		}
		return t.Flush()
	})
	return cmd
}

// historyRows are the steps of an image, newest first, with docker's columns: only
// the last step has an image of its own. A step without a layer changed the
// configuration only.
func historyRows(r *strakev1.InspectImageResponse, now time.Time, full bool) ([][5]string, error) {
	var img v1.Image
	if err := json.Unmarshal(r.Config, &img); err != nil {
		return nil, err
	}
	var rows [][5]string
	layer := 0
	size := func() string {
		layer++
		if layer > len(r.LayerSizes) {
			return ""
		}
		return sizeText(uint64(max(r.LayerSizes[layer-1], 0)))
	}
	for _, h := range img.History {
		row := [5]string{"<missing>", "", strings.Join(strings.Fields(h.CreatedBy), " "), sizeText(0), strings.Join(strings.Fields(h.Comment), " ")}
		if h.Created != nil {
			row[1] = ago(now, h.Created.UnixNano())
		}
		if !h.EmptyLayer {
			row[3] = size()
		}
		if runes := []rune(row[2]); !full && len(runes) > 45 {
			row[2] = string(runes[:44]) + "…"
		}
		rows = append(rows, row)
	}
	for layer < len(img.RootFS.DiffIDs) { // what the history does not tell of
		rows = append(rows, [5]string{"<missing>", "", "", size(), ""})
	}
	slices.Reverse(rows)
	if len(rows) > 0 {
		rows[0][0] = r.Image.GetId()
		if !full {
			rows[0][0] = short(rows[0][0])
		}
	}
	return rows, nil
}

func (a *app) pruneCommand() *cobra.Command {
	var all bool
	var until, unused time.Duration
	cmd := &cobra.Command{
		Use:   "prune [flags]",
		Short: "Remove images that no container uses",
		Long: "Remove images that have no tag and that no container uses; with --all those with a tag too.\n" +
			"Pinned images stay.",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also images with a tag")
	cmd.Flags().DurationVar(&until, "until", 0, "only those pulled longer ago than this, such as 72h")
	cmd.Flags().DurationVar(&unused, "unused", 0, "only those that no container has been made of for this time, such as 720h")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) error {
		if until < 0 || unused < 0 {
			return errors.New("--until and --unused are not negative")
		}
		before := func(d time.Duration) int64 {
			if d == 0 {
				return 0
			}
			return time.Now().Add(-d).UnixNano()
		}
		r, err := c.strake.PruneImages(ctx, &strakev1.PruneImagesRequest{All: all, PulledBefore: before(until), UsedBefore: before(unused)})
		if err != nil {
			return err
		}
		for _, img := range r.Removed {
			for _, name := range namesOf(img) {
				fmt.Fprintln(a.stdout, name)
			}
		}
		fmt.Fprintf(a.stderr, "%d images, %s freed\n", len(r.Removed), sizeText(uint64(max(r.Freed, 0))))
		return nil
	})
	return cmd
}

// namesOf are an image's tags, or its digests, or its id.
func namesOf(img *strakev1.Image) []string {
	switch {
	case len(img.Tags) > 0:
		return img.Tags
	case len(img.Digests) > 0:
		return img.Digests
	}
	return []string{img.Id}
}

func (a *app) saveCommand() *cobra.Command {
	var output, format string
	cmd := &cobra.Command{
		Use:   "save [flags] IMAGE...",
		Short: "Write images to a file, as docker and others read them",
		Long: "Write images to one file, or to standard output.\n\n" +
			"docker-archive has the layers unpacked, for docker load and skopeo; oci-archive and oci-dir\n" +
			"have the blobs as they were pulled, if [images] keep_layer_blobs is set.",
		Args:              needs(1, "an image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the file, or for oci-dir the new directory (default standard output)")
	cmd.Flags().StringVar(&format, "format", "docker-archive", "docker-archive, oci-archive or oci-dir")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		wire := format
		switch format {
		case "docker-archive", "oci-archive":
		case "oci-dir":
			wire = "oci-archive"
			if output == "" {
				return errors.New("save --format oci-dir needs --output DIR")
			}
		default:
			return fmt.Errorf("--format %s is not one of docker-archive, oci-archive, oci-dir", format)
		}
		if output == "" && isTerminal(a.stdout) {
			return errors.New("an archive is not for a terminal: use --output FILE, or redirect")
		}
		stream, err := c.strake.SaveImages(ctx, &strakev1.SaveImagesRequest{References: args, Format: wire})
		if err != nil {
			return err
		}
		in := &receiver{receive: func() ([]byte, error) {
			r, err := stream.Recv()
			return r.GetData(), err
		}}
		if format == "oci-dir" {
			return unpackLayout(in, output)
		}
		if output == "" {
			_, err := io.Copy(a.stdout, in)
			return err
		}
		return writeWhole(output, in)
	})
	return cmd
}

// receiver reads what the daemon streams.
type receiver struct {
	receive func() ([]byte, error)
	rest    []byte
}

func (r *receiver) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		var err error
		if r.rest, err = r.receive(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (a *app) loadCommand() *cobra.Command {
	var input string
	cmd := &cobra.Command{
		Use:   "load [flags]",
		Short: "Take the images of a file that save, docker or skopeo has written",
		Long: "Take the images of a docker-archive, an oci-archive or an OCI layout directory. An archive may\n" +
			"be compressed with gzip or zstd.",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "the file or directory (default standard input)")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, _ []string) (err error) {
		in, err := a.openInput(input)
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }() // only read from
		from := input
		if from == "" || from == "-" {
			from = "standard input"
		}
		defer func() {
			if err != nil {
				err = fmt.Errorf("%s: %w", from, err)
			}
		}()
		stream, err := c.strake.LoadImages(ctx)
		if err != nil {
			return err
		}
		// A send that fails does so because the daemon has answered: the answer says why.
		if err := sendAll(in, func(b []byte) error { return stream.Send(&strakev1.LoadImagesRequest{Data: b}) }); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		r, err := stream.CloseAndRecv()
		if err != nil {
			return err
		}
		for _, img := range r.Images {
			for _, name := range namesOf(img) {
				fmt.Fprintln(a.stdout, name)
			}
		}
		return nil
	})
	return cmd
}

// openInput opens a file, a directory as the tar of it, or standard input for "" and -.
func (a *app) openInput(path string) (io.ReadCloser, error) {
	if path == "" || path == "-" {
		if isTerminal(a.stdin) {
			return nil, errors.New("an archive is not typed: use --input FILE, or redirect")
		}
		return io.NopCloser(a.stdin), nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return packLayout(path), nil
	}
	return os.Open(path)
}

// sendAll sends in as messages; io.EOF is the other end's.
func sendAll(in io.Reader, send func([]byte) error) error {
	b := bufio.NewReaderSize(in, dataChunk)
	buf := make([]byte, dataChunk)
	for {
		n, err := io.ReadFull(b, buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
}

func (a *app) importCommand() *cobra.Command {
	var message string
	var config v1.ImageConfig
	var command string
	cmd := &cobra.Command{
		Use:   "import [flags] FILE NAME",
		Short: "Make an image of a root file system's tar",
		Long: "Make an image of one layer of a root file system's tar, which may be compressed; FILE - is\n" +
			"standard input.",
		Args: between(2, 2, "a file and a name"),
	}
	cmd.Flags().StringVarP(&message, "message", "m", "", "a comment, for history")
	cmd.Flags().StringVar(&command, "cmd", "", "the command of its containers, for sh -c")
	cmd.Flags().StringArrayVarP(&config.Env, "env", "e", nil, "NAME=value of their environment")
	cmd.Flags().StringVarP(&config.WorkingDir, "workdir", "w", "", "their directory")
	cmd.Flags().StringVarP(&config.User, "user", "u", "", "their user")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		in, err := a.openInput(args[0])
		if err != nil {
			return err
		}
		defer func() { _ = in.Close() }() // only read from
		if command != "" {
			config.Cmd = []string{"sh", "-c", command}
		}
		text, err := json.Marshal(config)
		if err != nil {
			return err
		}
		stream, err := c.strake.ImportImage(ctx)
		if err != nil {
			return err
		}
		err = stream.Send(&strakev1.ImportImageRequest{Name: args[1], Comment: message, Config: text})
		if err == nil {
			err = sendAll(in, func(b []byte) error { return stream.Send(&strakev1.ImportImageRequest{Data: b}) })
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		r, err := stream.CloseAndRecv()
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, r.Image.Id)
		return nil
	})
	return cmd
}

func (a *app) verifyCommand() *cobra.Command {
	cmd := a.checkCommand()
	cmd.Use, cmd.Short = "verify [flags] [IMAGE]", "Read images whole and say what is broken"
	return cmd
}

// checkCommand is strake system check.
func (a *app) checkCommand() *cobra.Command {
	var repair, quiet bool
	cmd := &cobra.Command{
		Use:   "check [flags] [IMAGE]",
		Short: "Read every blob and every layer and say what is broken",
		Long: "Read every blob and every file of every layer of an image, or of all, and compare them with\n" +
			"their digests. With --repair what is broken is unpacked or fetched again.",
		Args:              between(0, 1, "at most one image"),
		ValidArgsFunction: a.completeImages,
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "make it whole again")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only what is broken")
	cmd.RunE = a.connect(func(ctx context.Context, c *client, args []string) error {
		r := &strakev1.VerifyImagesRequest{Repair: repair, Auths: map[string]*strakev1.Auth{}}
		if len(args) > 0 {
			r.Reference = args[0]
		}
		if repair {
			if err := a.repairAuths(ctx, c, r.Auths); err != nil {
				return err
			}
		}
		stream, err := c.strake.VerifyImages(ctx, r)
		if err != nil {
			return err
		}
		broken := 0
		for {
			f, err := stream.Recv()
			switch {
			case errors.Is(err, io.EOF):
				if broken > 0 {
					fmt.Fprintf(a.stderr, "%d repaired\n", broken)
				}
				return nil
			case status.Code(err) == codes.DataLoss && !repair && broken > 0:
				return fmt.Errorf("%d broken: --repair fetches them again", broken)
			case err != nil:
				return err
			case f.Problem != "":
				broken++
				fmt.Fprintf(a.stdout, "broken\t%s\t%s\n", f.What, f.Problem)
			case f.Unknown:
				fmt.Fprintf(a.stdout, "unknown\t%s\tit was unpacked by an older version\n", f.What)
			case !quiet:
				fmt.Fprintf(a.stdout, "ok\t%s\n", f.What)
			}
		}
	})
	return cmd
}

// repairAuths finds the credentials of the registries that images are from.
func (a *app) repairAuths(ctx context.Context, c *client, auths map[string]*strakev1.Auth) error {
	list, err := c.strake.DiskUsage(ctx, &strakev1.DiskUsageRequest{})
	if err != nil {
		return err
	}
	for _, u := range list.Images {
		for _, name := range u.Image.Digests {
			host, _, _ := strings.Cut(name, "/")
			if _, known := auths[host]; known {
				continue
			}
			auth, err := findAuth(ctx, name, os.Getenv)
			if err != nil {
				return err
			}
			if auth != nil {
				auths[host] = auth
			}
		}
	}
	return nil
}

func (a *app) dfCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "df",
		Short:             "Show what images take on the disk",
		Args:              none,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.connect(func(ctx context.Context, c *client, _ []string) error {
			r, err := c.strake.DiskUsage(ctx, &strakev1.DiskUsageRequest{})
			if err != nil {
				return err
			}
			t := a.table()
			fmt.Fprintln(t, "IMAGE\tSIZE\tSHARED\tUNIQUE\tCONTAINERS\tLAST USED")
			for _, u := range r.Images {
				used := "-"
				if u.LastUsed > 0 {
					used = duration(time.Now(), u.LastUsed) + " ago"
				}
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", namesOf(u.Image)[0], sizeText(uint64(max(u.Image.Size, 0))),
					sizeText(uint64(max(u.Shared, 0))), sizeText(uint64(max(u.Unique, 0))), u.Holders, used)
			}
			if err := t.Flush(); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "%d images, %s in %d files\n", len(r.Images), sizeText(r.Bytes), r.Inodes)
			return nil
		}),
	}
}
