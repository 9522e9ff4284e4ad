//! Where in a function control can come, as far as its blocks and branches tell.
//!
//! A compiler writes `unreachable` behind what never ends (a loop that only a return leaves), since the format wants every
//! block to end with what it promised. Nobody gets there, whatever the values are; this finds those, so that nobody has to
//! explain them.

use wasmparser::{Operator, Result};

/// What control does up to some place of a function. Follows it operator by operator.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    /// The blocks that are open, the innermost last. The function itself is none.
    blocks: Vec<Block>,
    /// Behind a branch, a return or a trap, up to the end of the block.
    dead: bool,
}

#[derive(Clone, Debug)]
struct Block {
    /// Branches to a loop go to its start, not behind it.
    is_loop: bool,
    /// Whether control came to its start.
    entered: bool,
    /// Whether it gets behind the block by a branch, or from the end of the first half of an `if`.
    left: bool,
    /// Whether it gets there past the block: an `if` without `else`.
    passed: bool,
}

impl Flow {
    /// Whether control can come here.
    pub fn is_live(&self) -> bool {
        !self.dead
    }

    /// Takes the next operator.
    pub fn step(&mut self, operator: &Operator<'_>) -> Result<()> {
        match operator {
            Operator::Block { .. } => self.open(false, false),
            Operator::Loop { .. } => self.open(true, false),
            // Its condition may be false.
            Operator::If { .. } => self.open(false, true),
            Operator::Else => {
                if let Some(block) = self.blocks.last_mut() {
                    block.left |= !self.dead;
                    block.passed = false;
                    self.dead = !block.entered;
                }
            }
            Operator::End => {
                if let Some(block) = self.blocks.pop() {
                    self.dead &= !(block.left || block.passed);
                }
            }
            Operator::Br { relative_depth } => {
                self.branch(*relative_depth);
                self.dead = true;
            }
            Operator::BrIf { relative_depth } => self.branch(*relative_depth),
            Operator::BrTable { targets } => {
                for target in targets.targets() {
                    self.branch(target?);
                }
                self.branch(targets.default());
                self.dead = true;
            }
            Operator::Return | Operator::Unreachable => self.dead = true,
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, is_loop: bool, is_if: bool) {
        self.blocks.push(Block { is_loop, entered: !self.dead, left: false, passed: is_if && !self.dead });
    }

    /// A branch so many blocks outwards; one out of all of them is a return.
    fn branch(&mut self, depth: u32) {
        let target = self.blocks.iter_mut().rev().nth(depth as usize).filter(|block| !block.is_loop);
        if let (Some(block), false) = (target, self.dead) {
            block.left = true;
        }
    }
}

/// It tells what can be reached from what cannot.
#[test]
fn control_is_followed() {
    use wasmparser::{BlockType, Operator as Op};
    let empty = BlockType::Empty;
    let live = |operators: &[Op<'_>]| {
        let mut flow = Flow::default();
        operators.iter().for_each(|operator| flow.step(operator).expect("a step"));
        flow.is_live()
    };
    let (block, looped, if_) = (Op::Block { blockty: empty }, Op::Loop { blockty: empty }, Op::If { blockty: empty });
    let br = |relative_depth| Op::Br { relative_depth };
    let br_if = |relative_depth| Op::BrIf { relative_depth };
    assert!(live(&[]));
    assert!(!live(&[Op::Return]));
    assert!(live(&[block.clone(), br(0), Op::End]), "behind the block that was left");
    assert!(!live(&[block.clone(), br(1), Op::End]), "it was left for good");
    assert!(!live(&[block.clone(), Op::Return, br(0), Op::End]), "a branch that is not taken");
    assert!(!live(&[looped.clone(), br(0), Op::End]), "for ever");
    assert!(live(&[looped.clone(), br_if(0), Op::End]), "until it is enough");
    assert!(live(&[block.clone(), looped.clone(), br_if(1), br(0), Op::End, Op::End]), "left from within");
    assert!(live(&[if_.clone(), Op::Return, Op::End]), "where the condition is false");
    assert!(!live(&[if_.clone(), Op::Return, Op::Else, Op::Unreachable, Op::End]), "neither half gets to its end");
    assert!(live(&[if_.clone(), Op::Return, Op::Else, Op::End]));
    assert!(live(&[if_.clone(), Op::Else, Op::Return, Op::End]));
    assert!(!live(&[Op::Return, if_, Op::Else, Op::End]), "nobody comes to it");
}
