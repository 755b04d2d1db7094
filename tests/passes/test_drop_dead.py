"""What nobody reads goes; what the caller can see stays."""

from __future__ import annotations

from pass_programs import assert_pass, assert_unchanged

from tilewright.passes.drop_dead import drop_dead


def test_values_that_nobody_reads_go_with_what_only_they_needed():
    assert_pass(
        drop_dead,
        before="""
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %unused = s.mul %n, 2 : INDEX
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          %b = exp %a : tile<4x16, FP32>
          %c = row_sum %b valid [4, 16] : tile<4x1, FP32>
          store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %a to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        n=1,
    )


def test_a_tensor_of_our_own_that_nobody_reads_goes_with_its_stores():
    assert_pass(
        drop_dead,
        before="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %t = create {dtype = FP32, shape = [64]} : tensor<64, FP32>
          %v = reshape_view %t {shape = [4, 16]} : tensor<4x16, FP32>
          for %i in parallel(0, 4, 1) {
            %a = load %x[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %v[%i, 0] valid [1, 16] {shape = [1, 16]}
            store %a to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
          %z = full {dtype = FP32, shape = [64], value = 1.0} : tile<64, FP32>
          store %z to %t[0] valid [64] {shape = [64]}
        }""",
        after="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          for %i in parallel(0, 4, 1) {
            %a = load %x[%i, 0] valid [1, 16] {shape = [1, 16]} : tile<1x16, FP32>
            store %a to %y[%i, 0] valid [1, 16] {shape = [1, 16]}
            yield
          }
        }
        """,
    )


def test_carried_values_that_only_feed_themselves_go_and_the_others_keep_their_places():
    assert_pass(
        drop_dead,
        before="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          for %i in range(0, 3, 1) carry (%n = 0, %c = %a, %d = %a) -> (%n1, %c1, %d1) {
            %m = s.add %n, 2 : INDEX
            %e = add %c, %d : tile<4x16, FP32>
            %g = neg %d : tile<4x16, FP32>
            yield %m, %e, %g
          }
          store %d1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x16, FP32>, out %y: tensor<4x16, FP32>) {
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          for %i in range(0, 3, 1) carry (%d = %a) -> (%d1) {
            %g = neg %d : tile<4x16, FP32>
            yield %g
          }
          store %d1 to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
    )


def test_a_loop_without_effect_goes_and_its_bounds_with_it():
    assert_pass(
        drop_dead,
        before="""
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %twice = s.mul %n, 2 : INDEX
          for %i in range(0, %twice, 1) {
            %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
            yield
          }
          %z = full {dtype = FP32, shape = [4, 16], value = 1.0} : tile<4x16, FP32>
          store %z to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }""",
        after="""
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %z = full {dtype = FP32, shape = [4, 16], value = 1.0} : tile<4x16, FP32>
          store %z to %y[0, 0] valid [4, 16] {shape = [4, 16]}
        }
        """,
        n=2,
    )


def test_checks_stay_and_so_does_what_they_look_at():
    assert_unchanged(
        drop_dead,
        """
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>) {
          %row = s.add %n, 1 : INDEX
          check_window at [%row, 0] valid [1, 16] {access = "read", extents = [4, 16], subject = "x"}
          %small = s.lt %n, 9 : BOOL
          check_that %small {message = "n is below 9"}
        }
        """,
        n=2,
    )


def test_writes_that_the_caller_can_see_stay_also_through_views_regions_and_branches():
    assert_unchanged(
        drop_dead,
        """
        func f(%x: tensor<4x16, FP32>, %n: INDEX, out %y: tensor<4x16, FP32>, inout %z: tensor<64, FP32>) {
          %v = reshape_view %y {shape = [64]} : tensor<64, FP32>
          %big = s.gt %n, 1 : BOOL
          if %big {
            at "write" {
              write %v, 1.0 at [3]
              yield
            }
            yield
          } else {
            yield
          }
          write %z, 2.0 at [5]
        }
        """,
        n=2,
    )


def test_a_tensor_that_is_read_only_through_a_view_keeps_its_stores():
    assert_unchanged(
        drop_dead,
        """
        func f(%x: tensor<4x16, FP32>, out %y: tensor<64, FP32>) {
          %t = create {dtype = FP32, shape = [4, 16]} : tensor<4x16, FP32>
          %v = reshape_view %t {shape = [64]} : tensor<64, FP32>
          %a = load %x[0, 0] valid [4, 16] {shape = [4, 16]} : tile<4x16, FP32>
          store %a to %t[0, 0] valid [4, 16] {shape = [4, 16]}
          %b = load %v[0] valid [64] {shape = [64]} : tile<64, FP32>
          store %b to %y[0] valid [64] {shape = [64]}
        }
        """,
    )


def test_a_while_loop_keeps_what_decides_and_what_is_read():
    assert_pass(
        drop_dead,
        before="""
        func f(%n: INDEX, out %y: tensor<2, INT64>) {
          %c = s.lt 0, %n : BOOL
          while carry (%go = %c, %i = 0, %a = 1, %b = 2) -> (%g, %j, %p, %q) {
            %next = s.add %i, 1 : INDEX
            %twice = s.add %a, %a : INDEX
            %more = s.lt %next, %n : BOOL
            %unread = s.mul %b, 3 : INDEX
            yield %more, %next, %twice, %unread
          }
          %r = s.cast %p {to = INT64} : INT64
          write %y, %r at [0]
        }""",
        after="""
        func f(%n: INDEX, out %y: tensor<2, INT64>) {
          %c = s.lt 0, %n : BOOL
          while carry (%go = %c, %i = 0, %a = 1) -> (%g, %j, %p) {
            %next = s.add %i, 1 : INDEX
            %twice = s.add %a, %a : INDEX
            %more = s.lt %next, %n : BOOL
            yield %more, %next, %twice
          }
          %r = s.cast %p {to = INT64} : INT64
          write %y, %r at [0]
        }
        """,
        n=3,
    )


def test_a_while_loop_goes_when_nobody_reads_it_and_stays_for_its_writes():
    assert_pass(
        drop_dead,
        before="""
        func f(%n: INDEX, out %y: tensor<2, FP32>) {
          %c = s.lt 0, %n : BOOL
          while carry (%go = %c, %i = 0) -> (%g, %j) {
            %next = s.add %i, 1 : INDEX
            %more = s.lt %next, %n : BOOL
            yield %more, %next
          }
          while carry (%go.1 = %c, %i.1 = 0) -> (%g.1, %j.1) {
            write %y, 2.0 at [0]
            %next.1 = s.add %i.1, 1 : INDEX
            %more.1 = s.lt %next.1, %n : BOOL
            yield %more.1, %next.1
          }
        }""",
        after="""
        func f(%n: INDEX, out %y: tensor<2, FP32>) {
          %c = s.lt 0, %n : BOOL
          while carry (%go.1 = %c, %i.1 = 0) -> (%g.1, %j.1) {
            write %y, 2.0 at [0]
            %next.1 = s.add %i.1, 1 : INDEX
            %more.1 = s.lt %next.1, %n : BOOL
            yield %more.1, %next.1
          }
        }
        """,
        n=3,
    )
