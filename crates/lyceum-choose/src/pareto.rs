//! The Pareto front: what no other point beats in everything.

/// Whether each point is on the front; every coordinate is better when it is smaller. A point is off it when
/// another is nowhere worse and somewhere better.
pub fn front<const N: usize>(points: &[[f64; N]]) -> Vec<bool> {
    let beats = |a: &[f64; N], b: &[f64; N]| {
        a.iter().zip(b).all(|(a, b)| a <= b) && a.iter().zip(b).any(|(a, b)| a < b)
    };
    points.iter().map(|point| !points.iter().any(|other| beats(other, point))).collect()
}

#[cfg(test)]
mod tests {
    use super::front;
    use proptest::prelude::*;

    #[test]
    fn the_front_has_the_best_of_each_and_what_is_between() {
        let points = [[1.0, 9.0], [2.0, 5.0], [3.0, 6.0], [9.0, 1.0], [2.0, 5.0]];
        assert_eq!(front(&points), [true, true, false, true, true]);
    }

    proptest! {
        #[test]
        fn what_is_off_it_is_beaten_by_a_point_on_it(points in prop::collection::vec([0u8..6, 0u8..6, 0u8..6], 1..20)) {
            let points: Vec<[f64; 3]> = points.iter().map(|p| p.map(f64::from)).collect();
            let on = front(&points);
            prop_assert!(on.contains(&true));
            for i in (0..points.len()).filter(|&i| !on[i]) {
                let beaten = (0..points.len()).any(|j| {
                    on[j] && (0..3).all(|k| points[j][k] <= points[i][k]) && points[j] != points[i]
                });
                prop_assert!(beaten);
            }
        }
    }
}
