package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	shortestSecret = 32
	longestSecret  = 1 << 10
	// tick is the kernel's unit of processor time in /proc, the same on all Linux machines.
	tick = 10 * time.Millisecond
	// largestProc bounds what is read of a file in /proc.
	largestProc = 64 << 10
)

// systemService is guestv1connect.SystemServiceHandler.
type systemService struct{ agent *Agent }

func (s systemService) Ping(
	context.Context,
	*connect.Request[guestv1.PingRequest],
) (*connect.Response[guestv1.PingResponse], error) {
	return connect.NewResponse(&guestv1.PingResponse{
		Version: s.agent.config.Version, BootId: s.agent.bootID, UptimeUs: time.Since(s.agent.began).Microseconds(),
	}), nil
}

func (s systemService) Rotate(
	_ context.Context,
	req *connect.Request[guestv1.RotateRequest],
) (*connect.Response[guestv1.RotateResponse], error) {
	if err := s.agent.setSecret(req.Msg.Secret); err != nil {
		return nil, connect.NewError(connect.CodeInvalidArgument, err)
	}
	return connect.NewResponse(&guestv1.RotateResponse{}), nil
}

// Stats leaves out what the kernel does not tell.
func (s systemService) Stats(
	context.Context,
	*connect.Request[guestv1.StatsRequest],
) (*connect.Response[guestv1.StatsResponse], error) {
	stats := &guestv1.StatsResponse{}
	stats.MemoryBytes, stats.MemoryLimitBytes = memory()
	for _, pid := range processes() {
		if stat, ok := readStat(pid); ok {
			stats.Processes++
			stats.CpuUs += stat.ticks * uint64(tick.Microseconds())
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(s.agent.config.Root, &disk); err == nil {
		stats.DiskBytes = (disk.Blocks - disk.Bfree) * uint64(disk.Bsize)
		stats.DiskLimitBytes = disk.Blocks * uint64(disk.Bsize)
	}
	return connect.NewResponse(stats), nil
}

// memory gives what is used and what there is.
func memory() (used, total uint64) {
	text, err := readBounded("/proc/meminfo")
	if err != nil {
		return 0, 0
	}
	values := map[string]uint64{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 2 {
			values[fields[0]], _ = strconv.ParseUint(fields[1], 10, 64)
		}
	}
	total, free := values["MemTotal:"]<<10, values["MemAvailable:"]<<10
	return total - min(free, total), total
}

func readBounded(name string) (string, error) {
	file, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, largestProc))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return string(text), nil
}

// logService is guestv1connect.LogServiceHandler.
type logService struct{ agent *Agent }

func (s logService) Tail(
	_ context.Context,
	req *connect.Request[guestv1.TailRequest],
) (*connect.Response[guestv1.TailResponse], error) {
	n := min(int(req.Msg.Lines), mostLines)
	if n == 0 {
		n = defaultLines
	}
	return connect.NewResponse(&guestv1.TailResponse{Lines: s.agent.tail.last(n)}), nil
}
